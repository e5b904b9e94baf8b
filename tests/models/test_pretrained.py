"""Models by name, from folders, files and a hub on loopback; and back to it."""

import shutil

import huggingface_hub.constants
import pytest
import torch
from fake_hub import running_hub
from published_layouts import random_state

from reelscan.models import pretrained
from reelscan.models.conversion import ConversionOptions, convert_checkpoint
from reelscan.models.model_directory import load_model
from reelscan.models.pretrained import (
    ModelNotFetchedError,
    by_hand_path,
    convert_cached,
    find_pretrained,
    from_pretrained,
    push_to_hub,
    save_pretrained,
)
from reelscan.models.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(55))]
REPOSITORY, FILE = "someone/videos", "small.pth"


def use_hub(url, monkeypatch):
    """As HF_ENDPOINT does, which is read once in a process."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch):
    with running_hub() as hub:
        use_hub(hub.url, monkeypatch)
        yield hub


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REELSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Tokenizer, "bert_uncased", staticmethod(lambda: Tokenizer(WORDS)))


@pytest.fixture
def weights(tmp_path):
    torch.save(
        {"model": random_state("UMT_VIDEOMAMBA_middle_retrieval", small=True)}, tmp_path / FILE
    )
    return tmp_path / FILE


@pytest.fixture
def folder(weights, tmp_path):
    convert_checkpoint(weights, tmp_path / "folder")
    return tmp_path / "folder"


def test_a_weight_file_of_the_hub_is_fetched_and_converted_once(hub, weights, folder, tmp_path):
    hub.add(REPOSITORY, {FILE: weights})
    told = []
    wanted = {"file": FILE, "cache_dir": tmp_path / "hub", "token": "hf_x"}
    encoder = from_pretrained(REPOSITORY, **wanted, on_notice=told.append)
    assert encoder.fingerprint == load_model(folder).fingerprint
    assert [notice.split()[0] for notice in told] == ["fetching", "converting"]
    assert {r for r in hub.requests if "resolve" in r[1]} == {
        (way, f"/{REPOSITORY}/resolve/main/{FILE}", "Bearer hf_x") for way in ("HEAD", "GET")
    }, hub.requests
    hub.requests.clear()
    again = from_pretrained(REPOSITORY, **wanted, on_notice=told.append)
    assert again.fingerprint == encoder.fingerprint
    assert hub.requests == []
    assert len(told) == 2


def test_a_revision_is_fetched_for_itself(hub, weights, tmp_path):
    hub.add(REPOSITORY, {FILE: weights})
    other = tmp_path / "other.pth"
    state = random_state("UMT_VIDEOMAMBA_middle_retrieval", small=True, seed=1)
    torch.save(state, other)
    hub.add(REPOSITORY, {FILE: other}, revision="v2")
    main, second = (
        from_pretrained(REPOSITORY, file=FILE, revision=name, cache_dir=tmp_path / "hub")
        for name in (None, "v2")
    )
    assert main.fingerprint != second.fingerprint
    assert torch.equal(second.model.text_proj.weight, state["text_proj.weight"])


def test_options_of_the_conversion_are_kept_apart(hub, weights, tmp_path):
    hub.add(REPOSITORY, {FILE: weights})
    longer = ConversionOptions(frames=4)
    where = {"file": FILE, "cache_dir": tmp_path / "hub"}
    assert from_pretrained(REPOSITORY, **where, options=longer).preprocessing.frames == 4
    assert from_pretrained(REPOSITORY, **where).preprocessing.frames == 2


def test_a_model_folder_goes_to_the_hub_and_comes_back(hub, folder, tmp_path):
    hub.token = "hf_secret"
    for _ in range(2):
        address = push_to_hub(folder, REPOSITORY, token="hf_secret", revision="trial")
    assert address == f"{hub.url}/{REPOSITORY}"
    files = hub.repositories[REPOSITORY]["trial"]
    assert files.keys() == {"config.json", "model.safetensors", "vocab.txt", "golden.json"}
    encoder = from_pretrained(
        REPOSITORY, revision="trial", cache_dir=tmp_path / "hub", token="hf_secret"
    )
    assert encoder.fingerprint == load_model(folder).fingerprint


def test_a_damaged_folder_is_not_uploaded(hub, folder):
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in [*WORDS[:-1], "other"]))
    with pytest.raises(ValueError, match="not as they were saved"):
        push_to_hub(folder, REPOSITORY)
    assert hub.repositories == {}


def test_a_hub_that_refuses_is_told_with_the_remedy(hub, folder, tmp_path):
    hub.token = "hf_secret"
    with pytest.raises(ModelNotFetchedError, match=r"not uploaded.*hf auth login"):
        push_to_hub(folder, REPOSITORY, token="hf_wrong")
    with pytest.raises(ModelNotFetchedError, match=r"not open to you.*hf auth login"):
        from_pretrained(REPOSITORY, file=FILE, cache_dir=tmp_path / "hub", token="hf_wrong")


def test_names_that_the_hub_does_not_know(hub, weights, tmp_path):
    hub.add(REPOSITORY, {FILE: weights})
    for repository, file, revision, said in (
        ("someone/nothing", FILE, None, "no such repository"),
        (REPOSITORY, "nothing.pth", None, "has no file nothing.pth"),
        (REPOSITORY, FILE, "nothing", "revision 'nothing'"),
    ):
        with pytest.raises(ModelNotFetchedError, match=said):
            find_pretrained(repository, file=file, revision=revision, cache_dir=tmp_path / "hub")
    with pytest.raises(FileNotFoundError, match="no such folder, and a repository of the Hub"):
        find_pretrained("nowhere", file=FILE)


def test_without_a_network_the_way_by_hand_is_told_and_works(monkeypatch, weights, tmp_path):
    use_hub("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelNotFetchedError) as caught:
        find_pretrained(REPOSITORY, file=FILE)
    text, by_hand = str(caught.value), by_hand_path(REPOSITORY, FILE)
    assert "\n" not in text
    for words in (
        f"https://huggingface.co/{REPOSITORY}/resolve/main/{FILE}",
        f"put it here as {by_hand}",
        "reelscan model convert small.pth",
        "--model demo",
    ):
        assert words in text
    by_hand.parent.mkdir(parents=True)
    shutil.copy(weights, by_hand)
    found = find_pretrained(REPOSITORY, file=FILE)
    assert found.is_relative_to(tmp_path / "cache")
    load_model(found)


def test_local_folders_and_files(weights, folder, tmp_path):
    assert find_pretrained(folder) == folder
    encoder = from_pretrained(weights.parent, file=weights.name)
    assert encoder.fingerprint == load_model(folder).fingerprint
    assert save_pretrained(encoder, tmp_path / "copy") == encoder.fingerprint
    assert from_pretrained(tmp_path / "copy").fingerprint == encoder.fingerprint


def test_converted_files_are_told_apart_by_content(weights, tmp_path, monkeypatch):
    first = convert_cached(weights)
    assert convert_cached(weights) == first
    torch.save(random_state("UMT_VIDEOMAMBA_middle_retrieval", small=True, seed=1), weights)
    second = convert_cached(weights)
    assert second != first
    monkeypatch.setattr(pretrained, "CONVERSION_VERSION", 99)
    assert convert_cached(weights) not in (first, second)
