"""Classes by name, by neighbours and by a linear probe, on videos whose colour is their class."""

import numpy as np
import pytest
import torch
from colour_encoder import ColourEncoder, write_colours

from reelscan.retrieval.class_metrics import class_metrics
from reelscan.retrieval.classify import ClassifySettings, classify
from reelscan.retrieval.evaluation_report import BrokenVideosError
from reelscan.retrieval.labelled_videos import read_classes, read_labelled, spoken
from reelscan.retrieval.probes import linear_probe_scores, nearest_neighbour_scores
from reelscan.retrieval.zero_shot import class_vectors

FILMS = {
    "red": ("red red", "red blue red red"),
    "green": ("green", "green green"),
    "blue": ("blue",),
}


@pytest.fixture
def films(tmp_path):
    """A folder of classes; a film may show other colours in between."""
    for name, shown in FILMS.items():
        for number, colours in enumerate(shown):
            write_colours(tmp_path / "films" / name / f"{number}.mp4", colours, size=16)
    return tmp_path / "films"


def measure(root, tmp_path, *, encoder=None, train=None, **settings):
    return classify(
        encoder or ColourEncoder(),
        root,
        train=train,
        cache_folder=tmp_path / "cache",
        settings=ClassifySettings(workers=1, **settings),
        on_progress=lambda progress: None,
    )


def test_classes_are_told_by_their_names(films, tmp_path):
    encoder = ColourEncoder()
    report = measure(read_labelled(films), tmp_path, encoder=encoder)
    assert report.classes == ("blue", "green", "red")
    assert [one.way for one in report.ways] == ["zero-shot"]
    assert report.ways[0].metrics.top_1 == 100.0
    assert report.chance == pytest.approx(100 / 3)
    seen = encoder.clips_seen
    again = measure(read_labelled(films), tmp_path, encoder=encoder)
    assert encoder.clips_seen == seen == 5, "features are kept"
    np.testing.assert_array_equal(again.ways[0].scores, report.ways[0].scores)


def test_names_that_say_nothing_are_told_by_examples(tmp_path):
    """Classes named by letters: their names are of no use, examples are."""
    for part, copies in (("train", 3), ("test", 2)):
        for letter, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
            for number in range(copies):
                other = "white" if part == "test" else "black"
                path = tmp_path / part / letter / f"{number}.mp4"
                write_colours(path, f"{colour} {other}" if number else colour, size=16)
    train, test = (read_labelled(tmp_path / part) for part in ("train", "test"))
    report = measure(test, tmp_path, train=train, neighbours=2)
    found = {one.way: one.metrics.top_1 for one in report.ways}
    assert found == {"zero-shot": 0.0, "k-NN": 100.0, "linear probe": 100.0}
    assert report.examples == 9


def test_a_video_in_both_sets_is_refused(films, tmp_path):
    labelled = read_labelled(films)
    with pytest.raises(ValueError, match=r"5 videos are in both sets, such as blue/0\.mp4"):
        measure(labelled, tmp_path, train=labelled)


def test_broken_videos_stop_it_unless_left_out(films, tmp_path):
    (films / "red" / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(BrokenVideosError, match=r"red/bad\.mp4"):
        measure(read_labelled(films), tmp_path)
    report = measure(read_labelled(films), tmp_path, leave_out_broken=True)
    assert [one.video for one in report.left_out] == ["red/bad.mp4"]
    assert len(report.videos) == 5


def test_metrics_by_hand():
    scores = np.array([[3, 2, 1], [3, 2, 1], [1, 1, 0], [0, 0, 1]], dtype=np.float32)
    metrics = class_metrics(scores, np.array([0, 1, 0, 2]))
    # Ranks 1, 2, 2 (an equal score is ahead) and 1.
    assert metrics.top_1 == 50.0
    assert metrics.mean_class == pytest.approx(100 * (0.5 + 0 + 1) / 3)
    assert metrics.top_5 == 100.0
    many = np.arange(7, dtype=np.float32)[None]
    assert [class_metrics(many, np.array([k])).top_5 for k in (1, 2)] == [0.0, 100.0]
    with pytest.raises(ValueError, match="NaN"):
        class_metrics(np.full((1, 2), np.nan, dtype=np.float32), np.array([0]))


def test_neighbours_vote_by_closeness():
    examples = np.array([[1, 0], [0.8, 0.6], [0, 2]], dtype=np.float32)
    scores = nearest_neighbour_scores(
        np.array([[3, 0]], dtype=np.float32),
        examples,
        np.array([0, 1, 1]),
        classes=3,
        neighbours=2,
        temperature=0.5,
    )
    votes = np.exp(np.array([1 / 0.5, 0.8 / 0.5]))
    np.testing.assert_allclose(scores, [[*votes / votes.sum(), 0]], rtol=1e-5)


def test_the_probe_is_at_the_minimum_of_its_loss():
    """Where the misfit's gradient and the penalty's cancel; weights found again from the scores."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = 2 * torch.randn(3, 4, generator=generator)
    examples = (centres[labels] + torch.randn(60, 4, generator=generator)).numpy()
    scores, penalty = linear_probe_scores(
        examples, examples, labels.numpy(), classes=3, penalties=[0.1]
    )
    assert penalty == 0.1
    scaled = (examples - examples.mean(axis=0)) / examples.std(axis=0)
    columns = np.concatenate([scaled, np.ones((60, 1))], axis=1)
    # Log-probabilities are logits but for what they have in common; that is 0 at the minimum.
    logits = scores - scores.mean(axis=1, keepdims=True)
    weights = np.linalg.lstsq(columns, logits, rcond=None)[0]
    np.testing.assert_allclose(columns @ weights, logits, atol=1e-4)
    misfit = columns.T @ (np.exp(scores) - np.eye(3)[labels.numpy()]) / 60
    weights[-1] = 0
    np.testing.assert_allclose(misfit + 0.1 * weights, 0, atol=1e-4)
    assert np.abs(misfit).max() > 0.01


def test_the_penalty_is_chosen_on_held_out_examples():
    """Labels that are noise: the strongest penalty does least harm."""
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(100, 30, generator=generator).numpy()
    labels = torch.randint(0, 2, (100,), generator=generator).numpy()
    _, penalty = linear_probe_scores(
        examples, examples, labels, classes=2, penalties=[1e-5, 1e-3, 10.0]
    )
    assert penalty == 10.0


def test_names_are_spoken_and_prompts_averaged():
    assert [spoken(name) for name in ("PlayingGuitar", "high_jump", "tai chi")] == [
        "playing guitar",
        "high jump",
        "tai chi",
    ]
    vectors = class_vectors(ColourEncoder(), ["Red"], prompts=["{}", "{} blue"])
    mean = np.eye(8, dtype=np.float32)[0] + (np.eye(8)[0] + np.eye(8)[2]) / 2**0.5
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    with pytest.raises(ValueError, match=r"'a video' needs one \{\}"):
        ClassifySettings(prompts=("a video",))


def test_published_lists_have_numbers(tmp_path):
    (tmp_path / "names.txt").write_text("abseiling\nzumba\n")
    names = read_classes(tmp_path / "names.txt")
    for text in ("a b.mp4 1\nc.mp4 0\n", "a b.mp4,1\nc.mp4,0\n"):
        (tmp_path / "val.csv").write_text(text)
        found = read_labelled(tmp_path / "val.csv", classes=names)
        assert [(one.video, one.label) for one in found.videos] == [("a b.mp4", 1), ("c.mp4", 0)]
    with pytest.raises(ValueError, match=r"by number; give their names.*--classes"):
        read_labelled(tmp_path / "val.csv")
    (tmp_path / "val.csv").write_text("a.mp4 2\n")
    with pytest.raises(ValueError, match="not among the 2 known: '2'"):
        read_labelled(tmp_path / "val.csv", classes=names)


@pytest.mark.parametrize("column", ["label", "class_name"])
def test_tables_have_names(tmp_path, column):
    (tmp_path / "val.csv").write_text(f"video,{column}\nb.mp4,zumba\na.mp4,abseiling\n")
    found = read_labelled(tmp_path / "val.csv")
    assert found.classes == ("abseiling", "zumba")
    assert [(one.video, one.label) for one in found.videos] == [("b.mp4", 1), ("a.mp4", 0)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("video,label\na.mp4,x\na.mp4,y\n", "a.mp4 has the classes 'x' and 'y'"),
        ("video,label\n../a.mp4,x\n", "not below the root"),
        ("a.mp4 1\nb.mp4\n", "line 2.*is not PATH and class number"),
        ("a.mp4 0\na.mp4 0\n", "more than once"),
        ("video,topic\na.mp4,x\n", "label"),
    ],
)
def test_bad_files_are_told(tmp_path, text, told):
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_labelled(tmp_path / "val.csv")


def test_loose_videos_have_no_class(films):
    write_colours(films / "loose.mp4", "red", size=16)
    with pytest.raises(ValueError, match=r"loose\.mp4; give each class a subfolder"):
        read_labelled(films)
