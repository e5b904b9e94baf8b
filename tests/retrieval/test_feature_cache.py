import pytest
import torch
from colour_encoder import ColourMatcher

from reelscan.retrieval.feature_cache import (
    FeatureCache,
    TextStates,
    default_cache,
    mapped_states,
    states_of,
)

VECTOR, TOKENS = torch.tensor([1.0, 2.0]), torch.arange(6.0).view(2, 3).bfloat16()


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path, ColourMatcher())


def test_features_come_back_as_they_were(cache):
    key = cache.video_key("ab", end_seconds=None)
    assert not cache.has_video(key, tokens=False)
    cache.put_video(key, VECTOR, None)
    assert cache.has_video(key, tokens=False) and not cache.has_video(key, tokens=True)
    cache.put_video(key, VECTOR, TOKENS)
    assert cache.has_video(key, tokens=True)
    assert torch.equal(cache.video_vector(key), VECTOR)
    assert torch.equal(cache.video_tokens(key), TOKENS)
    assert cache.video_tokens(key).dtype == torch.bfloat16


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"\xff" * 7])
def test_a_damaged_file_counts_as_absent(cache, damage):
    key = cache.video_key("ab", end_seconds=None)
    cache.put_video(key, VECTOR, TOKENS)
    next(cache.folder.glob("videos/*/*")).write_bytes(damage)
    assert not cache.has_video(key, tokens=False)
    cache.put_video(key, VECTOR, TOKENS)
    assert cache.has_video(key, tokens=True)


def test_content_seconds_encoder_and_preparation_tell_features_apart(tmp_path, cache):
    keys = {cache.video_key("ab", end_seconds=end) for end in (None, 30.0, 29.5)}
    assert len({*keys, cache.video_key("cd", end_seconds=None)}) == 4
    assert len({cache.text_key(texts) for texts in (["a", "b"], ["b", "a"], ["a b"])}) == 3
    other = ColourMatcher()
    other.preprocessing = other.preprocessing.__class__(frames=4, size=16, antialias=True)
    folders = {FeatureCache(tmp_path, one).folder for one in (other, ColourMatcher("colours-2"))}
    assert len({*folders, cache.folder}) == 3


def test_the_states_of_all_parts_lie_in_one_mapped_tensor(cache):
    hidden = torch.arange(24.0).view(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    states = states_of(hidden, mask)
    assert states.lengths.tolist() == [2, 4, 1]
    parts = [
        TextStates(hidden=states.hidden[:2], lengths=states.lengths[:1]),
        TextStates(hidden=states.hidden[2:], lengths=states.lengths[1:]),
    ]
    for name, part in zip(("one", "two"), parts, strict=True):
        cache.put_texts(name, torch.zeros(len(part.lengths), 2), part)
    with mapped_states(cache, ["one", "two"]) as joined:
        assert torch.equal(joined.hidden, states.hidden)
        assert torch.equal(joined.lengths, states.lengths)
    assert len(list(cache.folder.iterdir())) == 3, "the joined file must leave nothing behind"


def test_the_folder_can_be_told_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("REELSCAN_CACHE", str(tmp_path / "told"))
    assert default_cache() == tmp_path / "told"
    monkeypatch.delenv("REELSCAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "reelscan" / "features"
