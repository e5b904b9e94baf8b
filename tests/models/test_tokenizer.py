import pytest
import torch

from reelscan.models.tokenizer import SPECIAL_TOKENS, Tokenizer, clean_caption

CAPTIONS = [
    "A man in a kayak paddles down-river!",
    "two skateboarders, grinding: café",
    "<person> juggles 3.5 oranges / lemons",
]


@pytest.fixture(scope="module")
def bert():
    return Tokenizer.bert_uncased()


def pieces(tokenizer, text):
    batch = tokenizer([text], max_tokens=64, pad_to_longest=True)
    return [tokenizer.vocabulary[index] for index in batch.input_ids[0]]


def test_published_ids(bert):
    batch = bert(["A dog runs.", "hi"], max_tokens=7)
    assert bert.vocab_size == 30522
    assert batch.input_ids.tolist() == [
        [101, 1037, 3899, 3216, 102, 0, 0],
        [101, 7632, 102, 0, 0, 0, 0],
    ]
    assert batch.attention_mask.tolist() == [[True] * 5 + [False] * 2, [True] * 3 + [False] * 4]
    assert batch.input_ids.dtype == torch.int64
    special = (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id)
    assert special == (0, 100, 101, 102, 103)


def test_pieces_accents_and_capitals(bert):
    words = "[CLS] cafe skate ##board ##ers [SEP]"
    assert " ".join(pieces(bert, "CAFÉ skateboarders")) == words


def test_long_texts_keep_their_end_token(bert):
    batch = bert(["one two three four five"], max_tokens=4)
    assert batch.input_ids.tolist() == [[101, 2028, 2048, 102]]
    assert batch.attention_mask.all()


def test_padding_to_the_longest_text_only_drops_padding(bert):
    full = bert(CAPTIONS, max_tokens=40)
    short = bert(CAPTIONS, max_tokens=40, pad_to_longest=True)
    length = short.input_ids.shape[1]
    assert length == full.attention_mask.sum(1).max()
    assert short.input_ids.equal(full.input_ids[:, :length])
    assert short.attention_mask.equal(full.attention_mask[:, :length])


def test_cleaning_is_the_default_and_can_be_left_out(bert):
    cleaned = bert(["Well-known!"], max_tokens=8).input_ids
    assert cleaned.equal(bert(["well known"], max_tokens=8).input_ids)
    kept = bert(["Well-known!"], max_tokens=8, clean=False).input_ids
    assert [bert.vocabulary[index] for index in kept[0, 1:5]] == ["well", "-", "known", "!"]


def test_a_text_cannot_smuggle_in_special_tokens(bert):
    ids = bert(["[SEP] [MASK] [PAD]"], max_tokens=20, clean=False).input_ids[0]
    assert (ids == bert.mask_id).sum() == 0
    assert (ids == bert.sep_id).sum() == 1


def test_empty_texts_and_empty_batches(bert):
    assert bert(["", "..."], max_tokens=3).input_ids.tolist() == [[101, 102, 0]] * 2
    assert bert([], max_tokens=5).input_ids.shape == (0, 5)
    assert bert([], max_tokens=5).attention_mask.shape == (0, 5)


def test_a_single_string_is_not_split_into_characters(bert):
    with pytest.raises(TypeError, match="list of strings"):
        bert("a dog", max_tokens=8)
    with pytest.raises(TypeError, match="list of strings"):
        bert.restricted_to("a dog")
    with pytest.raises(ValueError, match="max_tokens is 1"):
        bert(["a dog"], max_tokens=1)


def test_restricted_vocabulary_splits_its_captions_alike(bert):
    small = bert.restricted_to(iter(CAPTIONS))
    assert small.vocab_size < 2100
    assert small.vocabulary[:5] == SPECIAL_TOKENS
    for caption in CAPTIONS:
        assert pieces(small, caption) == pieces(bert, caption)


def test_restricted_vocabulary_spells_other_words(bert):
    small = bert.restricted_to(CAPTIONS)
    assert pieces(small, "zebra") == ["[CLS]", "z", "##e", "##b", "##r", "##a", "[SEP]"]
    assert "[UNK]" in pieces(small, "\N{PILE OF POO}")


def test_saved_vocabulary_reads_back(bert, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("old")
    bert.save(path)
    assert Tokenizer.from_file(path).vocabulary == bert.vocabulary
    assert [entry.name for entry in tmp_path.iterdir()] == ["vocab.txt"]
    small = bert.restricted_to(CAPTIONS)
    small.save(str(path))
    assert Tokenizer.from_file(str(path)).vocabulary == small.vocabulary


def test_saving_into_a_missing_folder_fails(bert, tmp_path):
    with pytest.raises(FileNotFoundError):
        bert.save(tmp_path / "nowhere" / "vocab.txt")


def test_incomplete_and_ambiguous_vocabularies_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\ndog\n")
    with pytest.raises(ValueError, match=r"4 tokens lacks \[SEP\], \[MASK\]"):
        Tokenizer.from_file(path)
    with pytest.raises(ValueError, match="1 tokens twice"):
        Tokenizer([*SPECIAL_TOKENS, "dog", "dog"])


def test_a_vocabulary_with_windows_line_ends_is_the_same(bert, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL_TOKENS, "dog", ""]).encode())
    assert Tokenizer.from_file(path).vocabulary == (*SPECIAL_TOKENS, "dog")


def test_cleaning_only_keeps_the_first_words_when_told():
    assert clean_caption("One, two -- three", max_words=2) == "one two"
