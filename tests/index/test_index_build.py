"""Which index is chosen, what is learnt and measured, and building on a GPU where there is one."""

import faiss
import numpy as np
import pytest
from gpu import require_gpu
from small_collection import MANIFEST, file

from reelscan.index import gpu_lists, index_build
from reelscan.index.collection import Collection
from reelscan.index.index_build import Cancelled
from reelscan.index.index_settings import IndexSettings, choose_kind
from reelscan.index.segments import NewSegment

WIDTH, COUNT = 16, 3000
SETTINGS = IndexSettings(exact_bytes=1000, compact_in_background=False)


@pytest.fixture
def filled(tmp_path):
    """A collection of clustered vectors, and the vectors."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, WIDTH))
    vectors = centres[rng.integers(40, size=COUNT)] + 0.4 * rng.standard_normal((COUNT, WIDTH))
    vectors = vectors.astype(np.float32)
    manifest = type(MANIFEST)(**{**vars(MANIFEST), "embed_dim": WIDTH})
    with Collection.create(tmp_path / "films", manifest=manifest, settings=SETTINGS) as collection:
        new = [NewSegment(start_seconds=0, end_seconds=1, vector=vector) for vector in vectors]
        collection.add_videos((file(f"{n}.mp4"), new[n : n + 50]) for n in range(0, COUNT, 50))
        yield collection, vectors


@pytest.mark.parametrize(
    ("vectors", "memory", "expected"),
    [
        (30_000, "4", ("flat", 0)),
        (40_000, "4", ("ivf-flat", 400)),
        (1_000_000, "4", ("ivf-flat", 2000)),
        (1_000_000, "1", ("ivf-sq8", 2000)),
        (10_000_000, "4", ("ivf-pq", 6325)),
        (10_000_000, "6", ("ivf-sq8", 6325)),
    ],
)
def test_the_most_exact_kind_that_fits_is_chosen(vectors, memory, expected):
    settings = IndexSettings(memory_bytes=int(memory) * 2**30)
    kind = choose_kind(vectors, embed_dim=512, settings=settings)
    assert (kind.name, kind.lists) == expected
    assert kind.exact_scores == (expected[0] in ("flat", "ivf-flat"))


def test_too_little_memory_says_how_much_is_needed():
    with pytest.raises(ValueError, match=r"at least 3\.76 GiB.*rebuild.*--memory"):
        choose_kind(10**8, embed_dim=512, settings=IndexSettings(memory_bytes=2**30))


@pytest.mark.parametrize("bad", [{"memory_bytes": 0}, {"recall_at_10": 1.1}, {"exact_bytes": -1}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="give"):
        IndexSettings(**bad)


def test_how_far_a_query_looks_is_measured_and_enough(filled):
    collection, vectors = filled
    stamp = collection.compact()
    assert stamp.kind == "ivf-flat"
    assert 1 <= stamp.lists_looked_into < stamp.lists
    assert stamp.recall_at_10 >= SETTINGS.recall_at_10
    rng = np.random.default_rng(9)
    one, two, three = (vectors[rng.integers(COUNT, size=100)] for _ in range(3))
    queries = (one + 0.6 * (two - three)).astype(np.float32)
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10] + 1
    found = collection.search(queries, top=10)
    hits = [
        len({hit.segment_id for hit in a} & set(b.tolist()))
        for a, b in zip(found, truth, strict=True)
    ]
    assert np.mean(hits) / 10 >= 0.93


def test_compacting_keeps_what_was_learnt_until_the_collection_has_doubled(filled):
    collection, vectors = filled
    first = collection.compact()
    some = [NewSegment(start_seconds=0, end_seconds=1, vector=one) for one in vectors[:500]]
    collection.add_video(file("more.mp4"), some)
    collection.forget_videos(["0.mp4", "50.mp4"])
    second = collection.compact()
    assert (second.trained_on, second.vectors) == (first.vectors, COUNT + 500 - 100)
    assert second.lists == first.lists
    assert collection.check().whole
    every = [NewSegment(start_seconds=0, end_seconds=1, vector=one) for one in vectors]
    collection.add_video(file("many.mp4"), [*every, *every])
    third = collection.compact()
    assert third.trained_on == third.vectors > 2 * second.vectors
    assert third.lists > second.lists


def test_a_build_can_be_stopped_and_changes_nothing(filled):
    collection, _ = filled
    before = collection.compact()
    collection.forget_videos(["0.mp4"])
    for stage in ("learning lists", "finding lists", "writing the index"):

        def stop(what, done, total, stage=stage):
            if what == stage:
                raise Cancelled

        with pytest.raises(Cancelled):
            collection.compact(anew=True, on_progress=stop)
        assert collection.stats().index == before
        assert [one.name for one in collection.path.glob("vectors-*")] == [before.file]
        assert collection.check().whole


def test_memory_is_remembered_by_those_who_compact_later(filled):
    collection, _ = filled
    path = collection.path
    collection.close()
    little = IndexSettings(exact_bytes=1000, memory_bytes=COUNT * (WIDTH + 8) + 20_000)
    with Collection.open(path, settings=little) as again:
        assert again.compact().kind == "ivf-sq8"
    with Collection.open(path) as again:
        again.forget_videos(["0.mp4"])
        assert again.compact().memory_bytes == little.memory_bytes


def lists_of(index):
    lists = index.invlists
    return [
        sorted(faiss.rev_swig_ptr(lists.get_ids(one), lists.list_size(one)).tolist())
        for one in range(index.nlist)
        if lists.list_size(one)
    ]


@pytest.mark.parametrize("code", ["Flat", "SQ8", "PQ4np"])
def test_assigning_apart_gives_the_index_that_faiss_makes(code):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, WIDTH), dtype=np.float32)
    ids = np.arange(2000) * 3 + 1
    index = faiss.index_factory(WIDTH, f"IVF20,{code}", faiss.METRIC_INNER_PRODUCT)
    if code == "PQ4np":
        index.pq.cp.niter = 1
    index.train(vectors)
    other = faiss.clone_index(index)
    index.add_with_ids(vectors, ids)
    finder = faiss.IndexFlatIP(WIDTH)
    finder.add(faiss.downcast_index(other.quantizer).reconstruct_n(0, 20))
    lists = gpu_lists.nearest_lists(finder, vectors)
    gpu_lists.make_room(other, np.bincount(lists, minlength=20))
    gpu_lists.add_assigned(other, vectors, ids, lists)
    assert lists_of(other) == lists_of(index)
    for one, two in zip(index.search(vectors[:9], 5), other.search(vectors[:9], 5), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_gpu_builds_what_the_cpu_serves(filled):
    require_gpu(gpu_lists.why_not_on_gpu())
    collection, vectors = filled
    stamp = collection.compact()
    assert stamp.recall_at_10 >= SETTINGS.recall_at_10
    assert collection.check().whole
    hit = collection.search(vectors[7:8], top=1)[0][0]
    assert hit.score == pytest.approx(float((vectors @ vectors[7]).max()), rel=1e-4)


def test_without_gpu_support_the_reason_is_told():
    reason = gpu_lists.why_not_on_gpu()
    assert reason is None or "GPU" in reason
    assert index_build.centre_finder(WIDTH).d == WIDTH
