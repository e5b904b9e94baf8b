"""The vision half against the stored tensors of the published system, family by family."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.drop_path import DropPath
from reelscan.models.masks import (
    attention_mask,
    clip_row_mask,
    frame_row_mask,
    hide_undrawn,
    random_mask,
    tube_mask,
)
from reelscan.models.mixer import BidirectionalMixer, MambaMixer
from reelscan.models.positions import (
    inflate_patch_weight,
    interpolate_spatial,
    interpolate_temporal,
    sincos_table,
)
from reelscan.models.selective_scan import selective_scan
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig


def encoder_config(config, *, pooling="cls+avg", **overrides):
    values = {
        "image_size": config["img_size"],
        "patch_size": config["patch_size"],
        "frames": config["num_frames"],
        "tubelet_size": config.get("kernel_size", config.get("tubelet_size", 1)),
        "depth": config["depth"],
        "width": config["embed_dim"],
        "drop_path_rate": config.get("drop_path_rate", 0.0),
        "norm": "rms" if config.get("rms_norm", True) else "layer",
        "norm_epsilon": config.get("norm_epsilon", 1e-5),
        "alignment_layers": config.get("clip_return_layer", 0),
        "alignment_interval": int(config.get("clip_student_return_interval", 1)),
        "alignment_width": config.get("clip_output_dim", 512),
        "last_alignment_before_mixer": config.get("fused_add_norm", True),
        "pooling": pooling,
    }
    return VideoMambaConfig(**(values | overrides))


def clips_first(video):
    """Stored clips are [B, 3, T, H, W]."""
    return video.transpose(1, 2)


@pytest.mark.golden("ssm_scan_*")
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_scan(case, backend, assert_close):
    sequences = {"u", "delta", "B", "C", "z"}
    inputs = {key: tensor.clone().requires_grad_() for key, tensor in case.group("in.").items()}
    arguments = {k: t.transpose(1, 2) if k in sequences else t for k, t in inputs.items()}
    softplus = case.config["delta_softplus"]
    result = selective_scan(**arguments, delta_softplus=softplus, backend=backend)
    assert_close(result.y, case["out.y"].transpose(1, 2))
    assert_close(result.y.double(), case["out.y_float64"].transpose(1, 2))
    assert_close(result.last_state, case["out.last_state"])
    result.y.backward(case["train.dout"].transpose(1, 2))
    for key, expected in case.group("grad.").items():
        assert_close(inputs[key].grad, expected)


@pytest.mark.golden("ssm_bimixer_*", "ssm_unimixer_*")
def test_mixer(case, assert_close):
    kind = BidirectionalMixer if case.config["bimamba"] else MambaMixer
    mixer = kind(
        case.config["d_model"],
        state_size=case.config.get("d_state", 16),
        conv_width=case.config.get("d_conv", 4),
        expand=case.config.get("expand", 2),
    )
    mixer.load_state_dict(case.group("param."))
    hidden = case["in.x"].clone().requires_grad_()
    mixed = mixer(hidden)
    assert_close(mixed, case["out.y"])
    mixed.backward(case["train.dout"])
    assert_close(hidden.grad, case["grad_in.x"])
    assert_gradients(mixer, case.group("grad."), assert_close)


def assert_gradients(module, expected, assert_close):
    parameters = dict(module.named_parameters())
    for name, gradient in expected.items():
        assert parameters[name].grad is not None, name
        assert_close(parameters[name].grad, gradient)


def loaded_encoder(case, **overrides):
    model = VideoMamba(encoder_config(case.config, **overrides))
    model.load_state_dict(case.group("param."))
    return model.eval()


def feed_drop_path(model, draws):
    remaining = iter(draws)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.draw = lambda _clips: next(remaining).flatten()
    return remaining


@pytest.mark.golden("vision_*")
def test_vision(case, assert_close):
    compared = [
        check(case, assert_close)
        for check in (features_agree, named_runs_agree, single_run_agrees, gradients_agree)
    ]
    assert sum(compared) > 0, f"nothing in {case.name} was compared"


def features_agree(case, assert_close):
    stored = case.group("out.forward_features.")
    model = loaded_encoder(case)
    for key, frames in (("clip_pos_embed", None), ("clip_img_pos_embed", 1)):
        if f"const.{key}" in case:
            table = case[f"const.{key}"]
            assert_close(model.alignment_positions[:, : table.shape[1]], table)
            area = model.config.grid[1] ** 2
            assert table.shape[1] == 1 + (frames or model.config.frames) * area
    for kind in {key.split(".")[0] for key in stored}:
        features = model.encode(clips_first(case["in.video"]), mask=case[f"in.mask_{kind}"])
        assert_close(features.tokens, stored[f"{kind}.x_vis_with_cls"])
        assert_close(torch.stack(features.aligned), stored[f"{kind}.x_clip_vis"])
    return len(stored)


def named_runs_agree(case, assert_close):
    """Runs stored as out.{mask or nomask}.{kind}.{pooling}.{kt0 or kt1}.{output}."""
    named = {key: t for key, t in case.group("out.").items() if key.count(".") == 4}
    for key, expected in named.items():
        masked, kind, pooling, keep, output = key.split(".")
        with torch.no_grad():
            result = loaded_encoder(case, pooling=pooling)(
                clips_first(case["in.image" if kind == "image" else "in.video"]),
                mask=case[f"in.mask_{kind}"] if masked == "mask" else None,
                keep_temporal=keep == "kt1",
            )
        assert_close(stored_names(result)[output], expected)
    return len(named)


def stored_names(result):
    return {"x_vis": result.tokens, "x_pool": result.pooled, "x_clip": result.alignment}


def single_run_agrees(case, assert_close):
    stored = {key: t for key, t in case.group("out.").items() if "." not in key}
    if not stored:
        return 0
    draws = [case[f"rng.rand.{i}"] for i in range(len(case.group("rng.rand.")))]
    model = loaded_encoder(case).train(bool(draws))
    remaining = feed_drop_path(model, draws)
    result = model(
        clips_first(case["in.video"]),
        mask=case.get("in.mask_random"),
        keep_temporal=stored["x_pool"].shape[1] > 1,
    )
    for key, expected in stored.items():
        assert_close(stored_names(result)[key], expected)
    assert next(remaining, None) is None, "fewer draws than published"
    return len(stored)


def gradients_agree(case, assert_close):
    gradients = case.group("grad.")
    if gradients:
        model = loaded_encoder(case)
        video, mask = clips_first(case["in.video"]), case["in.mask_random"]
        result = model(video, mask=mask, keep_temporal=False)
        loss = (
            (result.tokens * case["train.w_vis"]).mean()
            + (result.pooled * case["train.w_pool"]).sum()
            + (result.alignment * case["train.w_clip"]).mean()
        )
        assert_close(loss, case["train.loss"])
        loss.backward()
        assert_gradients(model, gradients, assert_close)
    return len(gradients)


@pytest.mark.golden("sm_classifier_*")
@pytest.mark.parametrize("fused", [True, False])
def test_classifier_logits_come_from_the_class_token(case, fused, assert_close):
    state = case.group("param.")
    head = {key: state.pop(f"head.{key}").requires_grad_() for key in ("weight", "bias")}
    state["norm.weight"] = state.pop("norm_f.weight")
    model = VideoMamba(encoder_config(case.config, last_alignment_before_mixer=fused))
    outcome = model.load_state_dict(state, strict=False)
    assert set(outcome.missing_keys) == {"pool_norm.weight", "pool_norm.bias"}
    assert not outcome.unexpected_keys
    cls = model.encode(clips_first(case["in.video"])).tokens[:, 0]
    logits = functional.linear(cls, head["weight"], head["bias"])
    assert_close(logits, case["out.logits" if fused else "out.logits_nonfused"])
    if fused:
        loss = functional.cross_entropy(logits, case["in.label"])
        assert_close(loss, case["out.loss"])
        loss.backward()
        gradients = case.group("grad.")
        assert_close(head["weight"].grad, gradients.pop("head.weight"))
        assert_close(head["bias"].grad, gradients.pop("head.bias"))
        gradients["norm.weight"] = gradients.pop("norm_f.weight")
        assert_gradients(model, gradients, assert_close)


@pytest.mark.golden("sm_masked_pretrain_*")
def test_masked_pretraining_student(case, assert_close):
    model = VideoMamba(encoder_config(case.config))
    outcome = model.load_state_dict(case.group("param."), strict=False)
    assert set(outcome.missing_keys) == {"pool_norm.weight", "pool_norm.bias"}
    result = model(clips_first(case["in.video"]), mask=case["rng.mask"], keep_temporal=False)
    student = functional.normalize(result.alignment, dim=-1)
    assert_close(student, case["out.student"])
    loss = (2 - 2 * (student * case["out.target"]).sum(-1)).mean()
    assert_close(loss, case["out.loss"])
    loss.backward()
    assert_gradients(model, case.group("grad."), assert_close)
    untouched = {name for name, p in model.named_parameters() if p.grad is None}
    assert not untouched & set(case.group("grad."))


@pytest.mark.golden("umt_*")
def test_student_of_the_whole_model(case, assert_close):
    config = case.config["model"]["vision_encoder"]
    model = VideoMamba(encoder_config(config, pooling=config["pool_type"]))
    model.load_state_dict(case.group("param.vision_encoder."))
    mask = case.get("rng.mask")
    with torch.no_grad():
        expected = case["out.pooled_vision_embeds"]
        result = model(case["in.image"], mask=mask, keep_temporal=mask is None)
    assert_close(result.tokens, case["out.vision_embeds"])
    assert_close(result.pooled, expected)
    if "out.student_output" in case:
        assert_close(result.alignment, case["out.student_output"])


@pytest.mark.golden("sincos")
def test_sincos(case, assert_close):
    for key, expected in case.tensors.items():
        if key.startswith("n"):
            positions, width = (int(part[1:]) for part in key.split("_"))
            assert_close(sincos_table(positions, width), expected.squeeze(0))
        else:
            frames, area, width = (int(p) for p in key.split("_")[1].split("x"))
            table = sincos_table(1 + frames * area, width)
            assert_close(table[case.config["rows"]], expected)


@pytest.mark.golden("ckpt_interp")
def test_interpolation(case, assert_close):
    for key, expected in case.group("out.").items():
        name, table = key.rsplit(".", 1)
        if name.startswith("inflate"):
            how = {"center": "centre", "mean": "mean"}[name.split(".")[1]]
            weight = case["in.inflate.w2d"]
            inflated = inflate_patch_weight(weight, tubelet_size=int(table[1:]), how=how)
            assert_close(inflated, expected)
        elif name == "teacher_pos":
            source = next(iter(case.group("in.teacher_pos.").values()))
            assert_close(interpolate_spatial(source[None], side=int(table))[0], expected)
        elif table == "pos_embed":
            side = round((expected.shape[1] - 1) ** 0.5)
            assert_close(interpolate_spatial(case[f"in.{key}"], side=side), expected)
        else:
            frames = expected.shape[1]
            assert_close(interpolate_temporal(case[f"in.{key}"], frames=frames), expected)


GRID_MASKS = {
    "sm_random": random_mask,
    "mm_random": random_mask,
    "sm_tube": tube_mask,
    "mm_tube": tube_mask,
    "sm_tube_row": frame_row_mask,
    "sm_random_row": clip_row_mask,
}


def grid_and_ratio(settings):
    grid, ratio, _seed = settings.split("_")
    frames, rest = grid[1:].split("h")
    height, width = rest.split("w")
    return (int(frames), int(height), int(width)), float(ratio[1:])


@pytest.mark.golden("masks")
def test_masks_hide_as_many_as_published(case):
    stored = {key: t for key, t in case.tensors.items() if key.split(".")[0] in GRID_MASKS}
    assert stored
    for key, expected in stored.items():
        kind, settings = key.split(".", 1)
        grid, ratio = grid_and_ratio(settings)
        ours = GRID_MASKS[kind](3, grid, ratio=ratio, generator=torch.Generator().manual_seed(0))
        expected = expected.view(-1, *grid)
        assert structure(ours, kind) == structure(expected, kind), key


def structure(masks: Tensor, kind: str) -> set[tuple[object, ...]]:
    """What the drawing does not change: counts in a clip, in a frame and in a row."""
    per_frame = masks.flatten(2).sum(-1)
    facts: set[tuple[object, ...]] = {("clip", n) for n in per_frame.sum(-1).tolist()}
    if kind in ("sm_tube", "mm_tube", "sm_tube_row"):
        facts |= {("frame", n) for n in per_frame.flatten().tolist()}
    if kind.endswith("row"):
        share = masks.sum(-1).flatten().unique().tolist()
        facts |= {("row", Fraction(n, masks.shape[-1])) for n in share}
    if kind.endswith("tube"):
        facts.add(("same in every frame", bool((masks == masks[:, :1]).all())))
    return facts


@pytest.mark.golden("masks")
def test_attention_masks(case):
    attention = case["in.attention.attn"]
    for key, expected in case.group("out.attention.").items():
        ratio = key.removesuffix(".mask").removeprefix("r")
        draws = case[f"rng.attention.r{ratio}.importance"]
        frames = attention.shape[0] // expected.shape[0]
        hidden = hide_undrawn(draws, ratio=float(ratio)).view(-1, frames * draws.shape[1])
        assert torch.equal(hidden, expected)
        side = round(attention.shape[1] ** 0.5)
        drawn = attention_mask(attention, (frames, side, side), ratio=float(ratio))
        assert torch.equal(
            drawn.flatten(2).sum(-1).unique(), hidden.view(-1, side * side).sum(-1).unique()
        )


@pytest.mark.parametrize(
    "family",
    ["ssm_scan_", "ssm_bimixer_", "ssm_unimixer_", "vision_", "masks", "sincos", "ckpt_interp"],
)
def test_every_family_is_there(family, golden_dir):
    assert list(golden_dir.glob(f"{family}*.safetensors")), f"no {family}* in {golden_dir}"
