"""Conditions against an evaluation of our own in Python, their errors, and filtered searches."""

import operator
import random
import re

import numpy as np
import pytest
from small_collection import MANIFEST, WIDTH, file, query, segments

from reelscan.index.collection import Collection
from reelscan.index.index_settings import IndexSettings
from reelscan.index.segments import NewSegment
from reelscan.index.where import Comparison, Not, parse_where

VIDEO_METADATA = {
    "north/a.mp4": {"camera": "north", "hour": 7, "indoor": True},
    "north/B.mp4": {"camera": "north", "hour": 22.5, "note": "it's 50%"},
    "south/c.mp4": {"camera": "south", "hour": "7", "indoor": False},
    "d.mp4": {},
    "e'; DROP TABLE segments; --.mp4": {"camera": "'; DROP TABLE segments; --"},
}
SEGMENT_METADATA = [{}, {"hour": 3}, {"camera": "own", "kind": "shot"}, {"indoor": True}]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    path = tmp_path_factory.mktemp("where") / "films"
    with Collection.create(path, manifest=MANIFEST) as collection:
        rng = np.random.default_rng(0)
        for name, metadata in VIDEO_METADATA.items():
            collection.add_video(
                file(name),
                [
                    NewSegment(
                        start_seconds=8.0 * place,
                        end_seconds=8.0 * place + 2 + place,
                        vector=rng.standard_normal(WIDTH, dtype=np.float32),
                        metadata=one,
                    )
                    for place, one in enumerate(SEGMENT_METADATA)
                ],
            )
            collection.edit_metadata([name], metadata)
        yield collection


def known_of(segment):
    """What a condition may ask about, with the segment's own metadata over its video's."""
    return {
        **VIDEO_METADATA[segment.video],
        **segment.metadata,
        "video": segment.video,
        "start": segment.start_seconds,
        "end": segment.end_seconds,
        "duration": segment.end_seconds - segment.start_seconds,
    }


ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def kind_of(value):
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def holds(condition, known):
    """The meaning of a condition, written down a second time."""
    if isinstance(condition, Not):
        return not holds(condition.part, known)
    if not isinstance(condition, Comparison):
        results = [holds(part, known) for part in condition.parts]
        return all(results) if condition.word == "and" else any(results)
    present = condition.field.name in known
    if condition.operator == "null":
        return present == condition.negated
    if not present:
        return False
    value = known[condition.field.name]
    same_kind = [other for other in condition.values if kind_of(other) == kind_of(value)]
    if condition.operator == "like":
        pattern = re.escape(condition.values[0]).replace("%", ".*").replace("_", ".")
        found = kind_of(value) == "text" and re.fullmatch(pattern, value, re.I) is not None
    elif condition.operator in ORDERS:
        found = any(ORDERS[condition.operator](value, other) for other in same_kind)
    else:
        found = value in same_kind
    return found != condition.negated


def expected_ids(collection, text):
    condition = parse_where(text)
    return [
        segment.segment_id
        for name in VIDEO_METADATA
        for segment in collection.segments_of(name)
        if holds(condition, known_of(segment))
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("camera = 'north'", 6),
        ("camera = 'north' and start >= 8", 4),
        ("CAMERA = 'north' or true_hour = 1", None),
        ("camera != 'north'", 11),
        ("not camera = 'north'", 14),
        ("hour = 7", 3),
        ("hour = '7'", 3),
        ("hour >= 7.5 and hour < 1e2", 3),
        ("hour in (3, 22.5, '7')", 11),
        ("hour not in (3)", 9),
        ("indoor = true", 8),
        ("indoor != true", 3),
        ("indoor is null", 9),
        ("kind is not null and not (start > 20)", 5),
        ("video like 'NORTH/%'", 8),
        ("video not like '%/_.mp4'", 8),
        ("note = 'it''s 50%'", 4),
        ('note = "it\'s 50%"', 4),
        ("`camera` == 'own'", 5),
        ("duration > 2 and duration <= 4", 10),
        ("camera = '''; DROP TABLE segments; --'", 3),
        ("video = 'd.mp4' or (camera = 'south' and (start = 0 or end = 29))", 6),
        ("start is null", 0),
        ("start is not null", 20),
    ],
)
def test_conditions_mean_what_they_say(collection, text, count):
    if count is None:
        with pytest.raises(ValueError, match="did you mean camera"):
            collection.passing(text)
        return
    assert collection.passing(text).tolist() == sorted(expected_ids(collection, text))
    assert len(collection.passing(text)) == count


def random_condition(rng, depth):
    kind = rng.random()
    if depth and kind < 0.35:
        word = rng.choice((" and ", " or "))
        return "(" + word.join(random_condition(rng, depth - 1) for _ in range(2)) + ")"
    if depth and kind < 0.5:
        return "not " + random_condition(rng, depth - 1)
    field = rng.choice(("camera", "hour", "indoor", "note", "kind", "start", "duration", "video"))
    numeric, textual = field in ("start", "duration"), field == "video"
    numbers = ("7", "3", "22.5", "8", "-1e1")
    texts = ("'north'", "'7'", "'shot'", "'north/a.mp4'", "'it''s 50%'")
    value = rng.choice(numbers if numeric else texts if textual else (*numbers, *texts))
    choice = rng.random()
    if choice < 0.15:
        return f"{field} is {rng.choice(('', 'not '))}null"
    if choice < 0.3 and not numeric:
        pattern = rng.choice((*texts, "'%o%'", "'n_rth'"))
        return f"{field} {rng.choice(('', 'not '))}like {pattern}"
    if choice < 0.5:
        return f"{field} {rng.choice(('', 'not '))}in ({value}, {value})"
    if not numeric and not textual and choice < 0.65:
        return f"{field} {rng.choice(('=', '!='))} {rng.choice(('true', 'false'))}"
    return f"{field} {rng.choice(('=', '!=', '<', '<=', '>', '>='))} {value}"


def test_random_conditions_agree_with_an_evaluation_in_python(collection):
    rng = random.Random(1)
    passed = 0
    for _ in range(400):
        text = random_condition(rng, 3)
        expected = sorted(expected_ids(collection, text))
        assert collection.passing(text).tolist() == expected, text
        passed += 0 < len(expected) < 20
    assert passed > 150, "the conditions tell too little apart"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at its end expected the name of a field"),
        ("camera", "at its end expected one of = != < <= > >= in like is"),
        ("camera => 'x'", "at \"> 'x'\" (character 9) expected a value"),
        ("camera = north", "text needs quotes: 'north'"),
        ("camera = 'north", "expected the quote ' to be closed"),
        ("camera = 'a' camera = 'b'", "expected and, or, or the end"),
        ("(camera = 'a'", "at its end expected )"),
        ("camera in 'a'", "expected ("),
        ("camera in ()", "expected a value"),
        ("camera is 'a'", "expected null"),
        ("camera not = 'a'", "expected in or like"),
        ("camera like 3", "expected a pattern in quotes"),
        ("and = 3", "expected the name of a field"),
        ("camera = 'a'; DROP TABLE segments", "at '; DROP TABLE segment' (character 13)"),
        ("camera = 1 -- x", "at '-- x' (character 12)"),
        ("start = 'a'", "start is a number of seconds, not ('a',)"),
        ("video > 3", "video is a name"),
        ("start like 'a'", "like needs text"),
        ("indoor < true", "use = or !="),
        ("camra = 'north'", "'camra', which no segment and no video has; did you mean camera?"),
        ("xyz = 1", "known are start, end, duration, video, camera, hour"),
        ("not " * 60 + "hour = 1", "nests deeper than 50"),
        ("(" * 5000, "nests deeper than 50"),
        (" or ".join(["hour = 1"] * 300), "more than 200 comparisons"),
    ],
)
def test_mistakes_are_told_where_they_are(collection, text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        collection.search(query(1, 0, 0), where=text)


def test_a_filter_follows_every_change(tmp_path):
    with Collection.create(tmp_path / "films", manifest=MANIFEST) as collection:
        collection.add_video(file("a.mp4"), segments([1, 0, 0], [0.9, 0, 0]))
        collection.add_video(file("b.mp4"), segments([0.5, 0, 0]))
        collection.write_derived_files()

        def found(where):
            return [hit.video for hit in collection.search(query(1, 0, 0), where=where)[0]]

        collection.edit_metadata(["b.mp4"], {"camera": "north"})
        assert found("camera = 'north'") == ["b.mp4"]
        collection.edit_metadata(["a.mp4"], {"camera": "north"})
        assert found("camera = 'north'") == ["a.mp4", "a.mp4", "b.mp4"]
        collection.add_video(file("c.mp4"), segments([0.7, 0, 0]))
        assert found("camera is null") == ["c.mp4"]
        assert found("place = 0") == ["a.mp4", "c.mp4", "b.mp4"]
        collection.forget_videos(["a.mp4"])
        assert found("place >= 0") == ["c.mp4", "b.mp4"]
        only_b = collection.segments_of("b.mp4")[0].segment_id
        hits = collection.search(query(1, 0, 0), among=np.array([1, only_b]), where="place = 0")
        assert [hit.video for hit in hits[0]] == ["b.mp4"]
        assert collection.search(query(1, 0, 0), among=np.array([], np.int64)) == [[]]


@pytest.mark.parametrize("kind", ["flat", "ivf-flat", "ivf-sq8", "ivf-pq"])
def test_filtered_searches_find_what_an_exact_one_finds(tmp_path, kind):
    """At every share that passes, with rows that are newer than the file and rows that are gone."""
    width, count = 16, 6000
    memory = {"ivf-sq8": count * (width + 8) + 40_000, "ivf-pq": count * (4 + 8) + 40_000}
    settings = IndexSettings(
        exact_bytes=10**9 if kind == "flat" else 1000,
        memory_bytes=memory.get(kind, 2**30),
        recall_at_10=0.99,
        recall_at_128=0.95,
    )
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((60, width))
    vectors = (
        centres[rng.integers(60, size=count)] + 0.5 * rng.standard_normal((count, width))
    ).astype(np.float32)
    draws = rng.random(count)
    manifest = type(MANIFEST)(**{**vars(MANIFEST), "embed_dim": width})
    new = [
        NewSegment(start_seconds=draw, end_seconds=2.0, vector=vector)
        for draw, vector in zip(draws, vectors, strict=True)
    ]
    with Collection.create(tmp_path / "films", manifest=manifest, settings=settings) as collection:
        collection.add_videos((file(f"{n}.mp4"), new[n : n + 100]) for n in range(0, 5000, 100))
        collection.write_derived_files()
        assert collection.stats().index.kind == kind
        collection.add_videos((file(f"{n}.mp4"), new[n : n + 100]) for n in range(5000, 6000, 100))
        collection.forget_videos(["0.mp4", "5900.mp4"])
        alive = np.arange(100, 5900)
        queries = vectors[100:140] + 0.3 * (vectors[200:240] - vectors[300:340])
        for share in (1.0, 0.5, 0.1, 0.01, 0.001):
            passing = alive[draws[alive] < share]
            scores = queries @ vectors[passing].T
            wanted = min(10, len(passing))
            truth = passing[np.argsort(-scores, axis=1)[:, :wanted]]
            found = collection.search(queries, where=f"start < {share}")
            assert {len(hits) for hits in found} == {wanted}
            matches = 0
            for hits, true in zip(found, truth, strict=True):
                assert all(hit.start_seconds < share for hit in hits)
                matches += len({hit.segment_id - 1 for hit in hits} & set(true.tolist()))
                for hit in hits:
                    exact = vectors[hit.segment_id - 1] @ queries[found.index(hits)]
                    assert hit.score == pytest.approx(exact, rel=1e-4)
            assert matches / truth.size >= 0.97, share
