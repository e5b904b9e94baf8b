"""The proof's clips, arms, snapshots and ablations on a few clips."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.proof.ablations import variants
from benchmarks.proof.clips import kept_frames, open_pixels, write_clips
from benchmarks.proof.export import export
from benchmarks.proof.feeder import Examples, Feeder, load_examples
from benchmarks.proof.loop import run
from benchmarks.proof.recipe import Recipe
from benchmarks.proof.report import END, START, put_between, report
from benchmarks.proof.runs import read_runs
from benchmarks.proof.session import Session, teacher_for
from benchmarks.proof.snapshot import read_state
from benchmarks.proof.variants import PLAYBACKS, mirrored, played

from reelscan.models.model_directory import load_model
from reelscan.pretrain.demo_corpus.captions import captions
from reelscan.pretrain.demo_corpus.config import full_corpus
from reelscan.pretrain.demo_corpus.render import render
from reelscan.pretrain.demo_corpus.scene import Meaning, ObjectMeaning, Scene
from reelscan.pretrain.demo_corpus.split import draw_train, held_out_compositions

TINY = Recipe(size="tiny", steps=4, batch=8, masked_fraction=0.5, learning_rate=1e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps this small gain nothing from more, and lose much beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, clips=20, test=12, seed=0, workers=1)
    return folder


@pytest.fixture(scope="module")
def examples(clips: Path) -> Examples:
    return load_examples(clips, image_size=32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def teacher(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_for("tiny", examples, folder=tmp_path_factory.mktemp("teacher"), steps=2)


def scene(*program: str | None) -> Scene:
    thing = ObjectMeaning(shape="star", colour="red", texture="plain", program=program)
    return Scene(base=Meaning(objects=(thing,)), seed=5)


def programs(meaning: Meaning | None) -> tuple[str | None, ...] | None:
    return None if meaning is None else meaning.objects[0].program


@pytest.mark.parametrize(
    ("program", "backwards", "swapped"),
    [
        (("moves left",), ("moves right",), None),
        (("moves left", "moves right"), None, ("moves right", "moves left")),
        (("grows", "blinks"), ("blinks", "shrinks"), None),
        (("changes colour to blue",), None, None),
        (("spins",), None, None),
        # Backwards nothing would begin in the second phase, and no caption could tell it.
        ((None, "appears"), None, None),
    ],
)
def test_what_a_clip_shows_in_another_order(
    program: tuple[str | None, ...],
    backwards: tuple[str, ...] | None,
    swapped: tuple[str, ...] | None,
) -> None:
    forward, reverse, halves = played(scene(*program))
    assert programs(forward) == program
    assert (programs(reverse), programs(halves)) == (backwards, swapped)


def test_a_mirror_image_moves_the_other_way() -> None:
    shown = mirrored(scene("moves left", "circles clockwise", "moves up").meaning)
    assert programs(shown) == ("moves right", "circles counterclockwise", "moves up")


def test_every_variant_of_drawn_scenes_can_be_told() -> None:
    config = full_corpus(train_videos=200)
    for drawn in draw_train(config, held_out_compositions(config), pairs=50, part=3):
        if drawn.playback == "forward":
            for meaning in filter(None, played(drawn)):
                assert captions(mirrored(meaning), 1, random.Random(0))


def test_parts_of_a_corpus_differ_and_do_not_show_held_out_pairs() -> None:
    config = full_corpus(train_videos=20)
    held_out = held_out_compositions(config)
    first, again, second = (draw_train(config, held_out, pairs=5, part=part) for part in (1, 1, 2))
    assert first == again
    assert not set(first) & set(second)


def test_stored_clips_are_the_rendered_ones_and_pairs_share_their_frames(
    clips: Path, examples: Examples
) -> None:
    config = replace(full_corpus(test_videos=12), train_videos=20)
    drawn = [
        scene
        for scene in draw_train(config, held_out_compositions(config), pairs=6, part=1)
        if scene.playback == "forward"
    ]
    stored = open_pixels(clips / "train.u8", config=config)
    assert (stored[3] == kept_frames(render(drawn[3], config=config))).all()
    for _, first, second in examples.pairs:
        frames = [
            sorted(frame.numpy().tobytes() for frame in examples.test_uint8[video])
            for video in (first, second)
        ]
        assert frames[0] == frames[1]
        assert examples.test_captions[first] != examples.test_captions[second]


def test_a_batch_holds_twins_with_their_own_captions(examples: Examples) -> None:
    batch = Feeder(examples, batch=64, seed=1, twins=True).batch(7)
    again = Feeder(examples, batch=64, seed=1, twins=True).batch(7)
    assert torch.equal(batch.clips, again.clips)
    # Twins have the same mean over time, up to the brightness of each.
    means = batch.clips.mean(1).flatten(1)
    alike = torch.corrcoef(means)[torch.arange(32), torch.arange(32, 64)] > 0.999
    assert alike.sum() >= 8
    assert (batch.sample_ids[:32] != batch.sample_ids[32:])[alike].all()
    assert batch.text.input_ids.max() < examples.tokenizer.vocab_size
    alone = Feeder(examples, batch=64, seed=1, twins=False).batch(7)
    assert not torch.equal(alone.sample_ids, batch.sample_ids)


def test_playbacks_are_the_orders_of_the_corpus(examples: Examples) -> None:
    orders = Feeder(examples, batch=2, seed=0, twins=True)._orders
    assert PLAYBACKS == ("forward", "reversed", "halves swapped")
    assert orders[:, :3].tolist() == [[0, 1, 2], [15, 14, 13], [8, 9, 10]]


def test_averaging_frames_cannot_tell_twins_and_video_encoders_can(
    examples: Examples, teacher: Path
) -> None:
    clips = torch.randn(1, 16, 3, 32, 32)
    for arm in ("frames", "videomamba", "vit"):
        model = Session(replace(TINY, arm=arm), examples, teacher=teacher).model.eval()
        forward, backward = (model.embed_video(c).mean(1) for c in (clips, clips.flip(1)))
        assert torch.allclose(forward, backward, atol=1e-6) == (arm == "frames"), arm


@pytest.mark.parametrize("arm", ["videomamba", "frames", "vit"])
def test_a_run_goes_through_both_stages_and_is_taken_up(
    arm: str, examples: Examples, teacher: Path, tmp_path: Path
) -> None:
    recipe = replace(TINY, arm=arm)  # type: ignore[arg-type]
    session = Session(recipe, examples, teacher=teacher)
    losses = [session.take_step().losses for _ in range(3)]
    assert losses[0]["alignment"] > 0 and losses[2]["alignment"] == 0
    session.save(tmp_path / "snapshot")
    other = Session(recipe, examples, teacher=None if session.step >= 2 else teacher)
    other.resume(tmp_path / "snapshot")
    assert other.step == 3 and not other.is_done
    ours, theirs = (s.take_step().losses["contrastive"] for s in (session, other))
    assert theirs == pytest.approx(ours, rel=0.02)
    if arm == "videomamba":
        export(tmp_path / "snapshot", tmp_path / "model")
        encoder = load_model(tmp_path / "model")
        assert encoder.encode_text(["a red star rises"]).shape == (1, 32)
    further = Session(replace(recipe, masked_fraction=0.0), examples, teacher=None)
    further.start_from(tmp_path / "snapshot")
    assert further.step == 0
    weights = further.model.text_proj.weight
    assert torch.allclose(weights, session.model.text_proj.weight, atol=2e-3)
    with pytest.raises(ValueError, match="recipe"):
        Session(replace(recipe, seed=9), examples, teacher=teacher).resume(tmp_path / "snapshot")


def test_a_run_stops_in_time_and_the_report_joins_its_parts(
    examples: Examples, teacher: Path, tmp_path: Path
) -> None:
    session = Session(replace(TINY, arm="vit"), examples, teacher=teacher)
    calls = iter([False, False, True])
    for part, is_up in enumerate((lambda _: next(calls), lambda _: False)):
        run(
            session,
            tmp_path / f"part-{part}.jsonl",
            name="vit-tiny",
            measure_every=1,
            time_is_up=is_up,
            on_stop=lambda: session.save(tmp_path / "snapshot"),
        )
        assert read_state(tmp_path / "snapshot")["step"] == (2, 4)[part]
    (joined,) = read_runs(tmp_path.glob("*.jsonl"))
    assert (joined.step, joined.done, joined.recipe) == (4, True, session.recipe)
    assert [step for step, _ in joined.course] == [1, 2, 3, 4]
    text = put_between(put_between("# Results\n", "old"), report([joined]))
    assert "old" not in text and text.count(START) == text.count(END) == 1
    assert "| joint space-time ViT | 0." in text


def test_the_report_says_where_the_ranking_is_not_the_papers(tmp_path: Path) -> None:
    for variant, recalls in (("base", (40, 42, 41)), ("mask-tube", (50, 51, 49))):
        for seed, recall in enumerate(recalls):
            name = f"ablation-{variant}-seed{seed}"
            head = {"run": name, "recipe": {"seed": seed}, "first_step": 0}
            facts = {"command": "x", "commit": "y", "device": "z"}
            measured = {"t2v_r1": recall, "t2v_r10": 90, "pairs": 80}
            last = {"run": name, "step": 9, "seconds": 1.0, "done": True, "measured": measured}
            text = "\n".join(map(json.dumps, ({**head, **facts}, last)))
            (tmp_path / f"{name}.jsonl").write_text(text)
    text = report(read_runs(tmp_path.glob("*.jsonl")))
    assert "**Unlike in the paper**, tube is first, 9.0 points above attention, beyond" in text
    assert "| tube | 50.0 ± 1.0 |" in text


def test_every_ablation_takes_a_step(examples: Examples, teacher: Path, tmp_path: Path) -> None:
    found = variants(replace(TINY, steps=2))
    smaller = Session(found["smaller"], examples, teacher=teacher)
    smaller.save(tmp_path / "smaller")
    for name, recipe in found.items():
        distils = tmp_path / "smaller" if name == "distillation" else None
        losses = Session(recipe, examples, teacher=teacher, smaller=distils).take_step().losses
        assert (losses["distillation"] > 0) == (name == "distillation")
        assert (losses["alignment"] > 0) == (name != "no-alignment")
