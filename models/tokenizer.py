"""Captions to token ids: the published cleaning, and WordPiece as bert-base-uncased does it.

B texts, L tokens.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""What every vocabulary has to hold."""

_DROPPED = re.compile(r"""[,.'!?"()*#:;~]""")
_TO_SPACE = re.compile(r"[-/]")


@dataclass(frozen=True)
class TokenBatch:
    """Texts as [CLS] tokens [SEP] [PAD] ..."""

    input_ids: Tensor
    """int64 [B, L]."""
    attention_mask: Tensor
    """bool [B, L]: false on padding."""

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device))


def clean_caption(text: str, *, max_words: int | None = None) -> str:
    """Lower case, without ,.'!?"()*#:;~ and with single spaces also for - and /.

    Cleaning twice changes nothing more. max_words keeps the first so many words.
    """
    text = _TO_SPACE.sub(" ", _DROPPED.sub("", text.lower()))
    words = text.replace("<person>", "person").split()
    return " ".join(words[:max_words])


class Tokenizer:
    """WordPiece over an uncased vocabulary; the position of a token in it is its id.

    Never changes once built, so threads can share it.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """vocabulary: the tokens; pieces that continue a word start with ##."""
        ids = {token: index for index, token in enumerate(vocabulary)}
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise ValueError(
                f"the vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}; "
                "give a WordPiece vocabulary in BERT's format, one token a line"
            )
        if len(ids) != len(vocabulary):
            raise ValueError(
                f"the vocabulary names {len(vocabulary) - len(ids)} tokens twice; "
                "give each once, or ids would shift"
            )
        self.vocabulary = tuple(vocabulary)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[token] for token in SPECIAL_TOKENS
        )
        # Only here: a training step on token ids does without the library.
        import tokenizers

        self._pieces = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        self._pieces.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        self._pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()

    @classmethod
    def bert_uncased(cls) -> "Tokenizer":
        """The vocabulary of bert-base-uncased, 30,522 tokens, which comes with this package."""
        packaged = resources.files("reelscan.models") / "bert_uncased_vocab.txt"
        return cls(_vocabulary_lines(packaged.read_text(encoding="utf-8")))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a vocabulary: UTF-8, one token a line, as `save` and BERT's `vocab.txt` have it."""
        return cls(_vocabulary_lines(Path(path).read_text(encoding="utf-8")))

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    def __call__(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        clean: bool = True,
        pad_to_longest: bool = False,
    ) -> TokenBatch:
        """Clean (`clean_caption`), tokenize, cut to max_tokens with [CLS] and [SEP], and pad.

        Padded to max_tokens, or to the longest of these texts: same vectors, less work.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is the string {texts!r}; give a list of strings")
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; [CLS] and [SEP] alone need 2")
        cleaned = [clean_caption(text) for text in texts] if clean else list(texts)
        encoded = self._pieces.encode_batch(cleaned, add_special_tokens=False)
        rows = [[self.cls_id, *text.ids[: max_tokens - 2], self.sep_id] for text in encoded]
        length = max(map(len, rows), default=2) if pad_to_longest else max_tokens
        padded = [row + [self.pad_id] * (length - len(row)) for row in rows]
        used = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return TokenBatch(
            input_ids=torch.tensor(padded, dtype=torch.int64).reshape(len(rows), length),
            attention_mask=torch.arange(length) < used[:, None],
        )

    def restricted_to(self, captions: Iterable[str]) -> "Tokenizer":
        """A smaller vocabulary that splits these captions, once cleaned, exactly as this one does.

        It holds the special tokens, all single characters (so that most other words still have
        pieces) and what the captions use, in the order of this vocabulary.
        """
        if isinstance(captions, str):
            raise TypeError(f"captions is the string {captions!r}; give a list of strings")
        kept = set(SPECIAL_TOKENS)
        kept.update(token for token in self.vocabulary if len(token.removeprefix("##")) == 1)
        for caption in captions:
            kept.update(self._pieces.encode(clean_caption(caption)).tokens)
        return Tokenizer([token for token in self.vocabulary if token in kept])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary for `from_file`; an existing file is replaced in one step."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
        try:
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{token}\n" for token in self.vocabulary)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def _vocabulary_lines(text: str) -> list[str]:
    # Not splitlines: some tokens are characters that it takes for line ends.
    return text.removesuffix("\n").split("\n")
