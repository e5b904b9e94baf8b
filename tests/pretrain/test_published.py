"""Every row of docs/differences.md: ours by default, theirs by its option and by `published`."""

import ast
import re
from dataclasses import fields, is_dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from toy_shards import COUNT, decode, write_corpus

from reelscan.models.bert import BertConfig
from reelscan.models.tokenizer import SPECIAL_TOKENS, TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.rounded_weights import RoundedWeights
from reelscan.pretrain.stages import unmasked, video_only_masked, video_text_masked
from reelscan.pretrain.train_step import TrainStep
from reelscan.pretrain.training_data import open_shards

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"
ROW = re.compile(r"\| `([\w.]+)` \| `([^`]+)` \| `([^`]+)` \|")
MODEL = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=2, width=16, alignment_width=8
    ),
    text=BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        fusion_layer=1,
        encoder_width=16,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    ),
    embed_dim=8,
)


def config(*, published: bool, precision: str = "auto") -> PretrainConfig:
    return PretrainConfig(
        model=MODEL,
        data=DataConfig(batch_size=4),
        losses=LossWeights(alignment=0.0),
        mask=MaskConfig(kind="none"),
        run=RunConfig(device="cpu", precision=precision),
        steps=10,
        published=published,
    )


def listed() -> list[tuple[str, object, object]]:
    rows = ROW.findall(DIFFERENCES.read_text(encoding="utf-8"))
    return [(path, _value(ours), _value(theirs)) for path, ours, theirs in rows]


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def option(root: PretrainConfig, path: str) -> object:
    """Raises AttributeError if there is no such option."""
    value: object = root
    for name in path.split("."):
        assert is_dataclass(value) and name in {field.name for field in fields(value)}, path
        value = getattr(value, name)
    return value


def flat(value: object, prefix: str = "") -> dict[str, object]:
    if not is_dataclass(value):
        return {prefix.rstrip("."): value}
    found: dict[str, object] = {}
    for field in fields(value):
        found |= flat(getattr(value, field.name), f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize(("path", "ours", "theirs"), listed())
def test_each_listed_option_exists_and_published_sets_it(path, ours, theirs):
    assert option(config(published=False), path) == (None if ours is None else ours)
    assert option(config(published=True), path) == theirs != ours


def test_the_list_is_complete():
    """What `published` changes is what the table lists."""
    before, after = flat(config(published=False)), flat(config(published=True))
    changed = {name for name in before if before[name] != after[name]} - {"published"}
    assert changed == {path for path, _, _ in listed()}


def test_every_option_that_the_text_names_exists():
    named = re.findall(r"`((?:[a-z]\w*\.)+\w+)`", DIFFERENCES.read_text(encoding="utf-8"))
    for path in {name for name in named if not name.endswith(".py")}:
        option(config(published=False), path)


@pytest.mark.parametrize("stage", ["video_only_masked", "video_text_masked", "unmasked"])
def test_each_stage_can_be_published(stage):
    shards, teacher = (Path("a.index.json"),), Path("teacher.safetensors")
    made = {
        "video_only_masked": lambda: video_only_masked(shards=shards, teacher=teacher),
        "video_text_masked": lambda: video_text_masked(shards=shards, teacher=teacher),
        "unmasked": lambda: unmasked(shards=shards),
    }[stage]()
    published = replace(made, published=True)
    for path, ours, theirs in listed():
        assert option(made, path) == ours
        assert option(published, path) == theirs
    assert published.optimizer.learning_rate == made.optimizer.learning_rate


def test_published_keeps_fp32_and_overrules_the_rest():
    assert config(published=True, precision="fp32").run.precision == "fp32"
    assert config(published=True, precision="bf16").run.precision == "bf16_weights"


def objective(options: LossOptions | None = None, **weights: float) -> Objective:
    torch.manual_seed(0)
    words = [f"w{number}" for number in range(15)]
    return Objective(
        VideoTextModel(MODEL).eval(),
        teacher=None,
        tokenizer=Tokenizer([*SPECIAL_TOKENS, *words]),
        losses=LossWeights(**{"alignment": 0.0, **weights}),
        mask=MaskConfig(kind="none"),
        options=options,
    )


def batch(ids=(0, 1, 2, 3)) -> TrainingBatch:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, 20, (4, 6), generator=generator)
    return TrainingBatch(
        clips=torch.randn(4, 2, 3, 16, 16, generator=generator),
        text=TokenBatch(tokens, torch.ones(4, 6, dtype=torch.bool)),
        sample_ids=torch.tensor(ids),
    )


def test_matching_negatives_never_fail_but_for_the_published_ones():
    """A positive so much more similar than all others that it takes all of the softmax."""
    similarity = torch.full((4, 4), -200.0).fill_diagonal_(200.0)
    ids = torch.arange(4)
    drawn = objective()._draw_negatives(similarity, ids)
    assert drawn.exists.all() and (drawn.rows != ids).all()
    theirs = objective(LossOptions(negative_weights="after_softmax"))
    with pytest.raises(ValueError, match=r"4 of 4 samples.*before_softmax"):
        theirs._draw_negatives(similarity, ids)
    assert theirs._draw_negatives(similarity / 1000, ids).exists.all()


def test_random_negatives_do_not_look_at_similarity():
    similarity = torch.tensor([[0.0, 500.0, 0.0]] * 3)
    chosen = objective(LossOptions(negatives="random"))
    torch.manual_seed(2)
    drawn = {int(chosen._draw_negatives(similarity, torch.arange(3)).rows[0]) for _ in range(30)}
    assert drawn == {1, 2}


def test_alignment_follows_its_options():
    step = objective(LossOptions(alignment_distance="mse", alignment_normalise=False))
    vision = step.model.encode_vision(batch().clips)

    class Taught:
        features = torch.zeros_like(vision.alignment)

    loss = step._alignment(vision, Taught(), None)
    torch.testing.assert_close(loss, F.mse_loss(vision.alignment, Taught.features))


def test_without_each_frame_a_clip_is_one_vector():
    seen = []
    for each_frame in (True, False):
        step = objective(LossOptions(each_frame=each_frame), matching=0.0, masked_language=0.0)
        step.model.vision_proj.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
        step(batch())
    assert [pooled.shape[1] for pooled in seen] == [2, 1]


def test_samples_of_different_sets_share_ids_only_as_published(tmp_path, monkeypatch):
    monkeypatch.setattr("reelscan.pretrain.training_data.ClipDecoder", lambda **_options: decode)
    indexes = [write_corpus(tmp_path / name, name=name) for name in ("first", "second")]
    for published in (False, True):
        settings = config(published=published)
        data = replace(settings.data, shards=tuple(indexes), batch_size=6)
        source = open_shards(
            replace(settings, data=data),
            Processes(rank=0, count=1, device=torch.device("cpu")),
        )
        batches = islice(source.batches(0), source.steps_in(1))
        ids = {number for batch in batches for number in batch.sample_ids.tolist()}
        assert len(ids) == (COUNT if published else 2 * COUNT)


@pytest.mark.parametrize("published", [False, True])
def test_a_step_keeps_or_rounds_the_state_space_parameters(published):
    """What the scan is given in a training step in bf16, and where the gradient arrives."""
    settings = config(published=published, precision="bf16")
    step = TrainStep(
        objective(),
        config=settings,
        processes=Processes(rank=0, count=1, device=torch.device("cpu")),
        total_steps=10,
    )
    mixer = step.objective.model.vision_encoder.layers[0].mixer
    with torch.no_grad():
        mixer.A_log.fill_(0.12345678)
        step.objective.model.temp.fill_(0.0712345)
    seen = []
    mixer.register_forward_pre_hook(lambda module, _given: seen.append(module.A_log.detach()))
    outcome = step([batch()], 5, stop_requested=False)
    assert outcome.applied
    if published:
        assert isinstance(step._parallel, RoundedWeights)
        assert seen[0].dtype == torch.bfloat16
    else:
        assert seen[0].dtype == torch.float32
        assert seen[0][0, 0].item() == pytest.approx(0.12345678, abs=1e-8)
    parameters = dict(step.objective.model.named_parameters())
    for name in ("vision_encoder.layers.0.mixer.A_log", "vision_encoder.layers.0.mixer.D", "temp"):
        assert parameters[name].dtype == parameters[name].grad.dtype == torch.float32
        assert bool(parameters[name].grad.any()), name


def test_rounded_weights_give_nearly_the_loss_of_the_plain_ones():
    torch.manual_seed(3)
    plain = objective(matching=0.0, masked_language=0.0)(batch()).total
    rounded = RoundedWeights(objective(matching=0.0, masked_language=0.0))(batch()).total
    assert rounded.item() == pytest.approx(plain.item(), rel=0.05)
    assert rounded.item() != plain.item()


def test_time_steps_start_as_mamba_intends_unless_published():
    torch.manual_seed(0)
    for published in (False, True):
        made = VideoTextModel(config(published=published).model)
        bias = made.vision_encoder.layers[0].mixer.dt_proj.bias
        steps = F.softplus(bias)
        if published:
            assert not bias.any()
        else:
            assert steps.min() > 0.0009 and steps.max() < 0.11


@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_decay_pulls_at_state_matrices_embeddings_and_temperature(published):
    """A step without any gradient: what decays shrinks, all else stays."""
    settings = config(published=published, precision="fp32")
    step = TrainStep(
        objective(),
        config=settings,
        processes=Processes(rank=0, count=1, device=torch.device("cpu")),
        total_steps=10,
    )
    with torch.no_grad():
        for parameter in step.objective.model.parameters():
            parameter.fill_(0.25)
            parameter.grad = torch.zeros_like(parameter)
    step.optimizer.step()
    shrunk = {
        name.rsplit(".", 1)[-1]
        for name, p in step.objective.model.named_parameters()
        if p.max() < 0.25
    }
    theirs = {"A_log", "A_b_log", "temp", "cls_token", "pos_embed", "temporal_pos_embedding"}
    assert shrunk == ({"weight"} | theirs if published else {"weight"})
    assert step.objective.model.vision_encoder.layers[0].mixer.D.max() == 0.25
