"""Published layouts are recognised, converted and give what a model built by hand gives."""

import argparse
import json

import pytest
import torch
from published_layouts import NAMES, VARIANTS, VIDEO_TEXT, VISION_ONLY, random_state, shapes_of
from safetensors.torch import load_file, save_file

from reelscan.models.bert import BertConfig
from reelscan.models.checkpoint_layout import describe_checkpoint
from reelscan.models.conversion import ConversionOptions, convert_checkpoint
from reelscan.models.model_directory import load_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, video_text_middle
from reelscan.models.videomamba_config import (
    VideoMambaConfig,
    videomamba_middle,
    videomamba_small,
    videomamba_tiny,
)
from reelscan.models.vision_directory import load_vision_model
from reelscan.models.vision_model import VisionModel

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(55))]


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    return tmp_path / "vocab.txt"


def options(vocabulary=None, **others):
    return ConversionOptions(vocabulary=vocabulary, **others)


def frames_of(config, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, config.frames, 3, config.image_size, config.image_size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def save(state, path, **extras):
    torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), **extras}, path)
    return path


# Layouts


@pytest.mark.parametrize(
    ("variant", "stage", "teacher", "classes"),
    [
        ("UMT_VIDEOMAMBA_middle_pretrain_unmasked", "video-text pretraining", False, 0),
        ("UMT_VIDEOMAMBA_middle_pretrain_masked_with_teacher", "video-text pretraining", True, 0),
        ("UMT_VIDEOMAMBA_middle_retrieval", "video-text retrieval", False, 0),
        ("sm_videomamba_tiny", "classifier", False, 400),
        ("sm_videomamba_small", "classifier", False, 400),
        ("sm_videomamba_middle", "classifier", False, 400),
        ("sm_videomamba_middle_pretrain", "masked pretraining", False, 0),
    ],
)
def test_every_published_file_is_recognised_by_its_names_and_shapes(
    variant, stage, teacher, classes
):
    shapes = {name: tuple(shape) for name, (shape, _) in shapes_of(variant).items()}
    found = describe_checkpoint(shapes)
    assert (found.stage, found.teacher, found.classes) == (stage, teacher, classes)
    assert found.differences.lines() == []
    if variant in VIDEO_TEXT:
        assert found.video_text == video_text_middle()
    else:
        preset = {"t": videomamba_tiny, "s": videomamba_small, "m": videomamba_middle}
        expected = preset[variant.removeprefix("sm_videomamba_")[0]]()
        sizes = [(c.depth, c.width, c.frames, c.image_size) for c in (found.vision, expected)]
        assert sizes[0] == sizes[1]


def test_every_published_variant_has_its_row_above():
    marks = test_every_published_file_is_recognised_by_its_names_and_shapes.pytestmark
    assert {row[0] for row in marks[0].args[1]} == set(VARIANTS)


def test_parameters_are_counted_as_published():
    for variant in VISION_ONLY:
        with torch.device("meta"):
            found = describe_checkpoint({n: tuple(s) for n, (s, _) in NAMES[variant].items()})
            model = VisionModel(found.vision, classes=found.classes)
        stored = sum(tensor.numel() for tensor in model.stored_state().values())
        assert stored == NAMES[f"_n_params.{variant}"], variant


@pytest.mark.parametrize("variant", [VIDEO_TEXT[0], VISION_ONLY[0]])
def test_missing_unknown_and_misshapen_names_are_listed(variant, tmp_path):
    state = random_state(variant, small=True)
    prefix = "vision_encoder." if variant in VIDEO_TEXT else ""
    del state[f"{prefix}layers.1.mixer.D"]
    state["surplus.weight"] = torch.ones(2)
    state[f"{prefix}layers.0.mixer.conv1d.bias"] = torch.ones(7)
    with pytest.raises(ValueError, match=r"names do not fit") as caught:
        convert_checkpoint(save(state, tmp_path / "a.pth"), tmp_path / "out")
    text = str(caught.value)
    assert f"1 missing: {prefix}layers.1.mixer.D" in text
    assert "1 unknown: surplus.weight" in text
    assert f"1 of another shape: {prefix}layers.0.mixer.conv1d.bias [7] instead of" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"visual.conv1.weight": (768, 3, 16, 16)}, "reelscan model teacher"),
        ({"bert.embeddings.word_embeddings.weight": (30522, 768)}, "--initial-text-encoder"),
        ({"fc.weight": (10, 5)}, "no VideoMamba"),
    ],
)
def test_other_models_are_told_apart(names, said, tmp_path):
    save_file(
        {name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=said):
        convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "out")


# Conversions


@pytest.mark.parametrize("variant", VIDEO_TEXT)
def test_a_video_text_file_gives_what_a_model_built_by_hand_gives(variant, tmp_path, vocabulary):
    state = random_state(variant, small=True)
    path = save(state, tmp_path / "a.pth", optimizer={"state": {0: torch.ones(3)}})
    done = convert_checkpoint(path, tmp_path / "out", options=options(vocabulary))
    assert [word.split(" ")[0] for word in done.left_out] == ["epoch", "args", "optimizer"]
    encoder = load_model(tmp_path / "out")
    assert encoder.fingerprint == done.fingerprint

    text = BertConfig(
        vocab_size=60, hidden_size=64, num_hidden_layers=2, fusion_layer=1, encoder_width=48,
        num_attention_heads=1, intermediate_size=128, max_position_embeddings=32,
    )  # fmt: skip
    vision = VideoMambaConfig(image_size=32, frames=2, depth=2, width=48, alignment_width=32)
    model = VideoTextModel(VideoTextConfig(vision=vision, text=text, embed_dim=32)).eval()
    assert encoder.model.config == model.config
    named = {
        (n.replace("text_encoder.", "text_encoder.bert.") if "retrieval" in variant else n): t
        for n, t in state.items()
    }
    outcome = model.load_state_dict(named, strict=False)
    assert all(name.startswith("text_encoder.") for name in outcome.missing_keys)
    assert all(name.startswith("clip_teacher.") for name in outcome.unexpected_keys)
    frames = frames_of(vision)
    ids = encoder.tokenizer(["w3 w1 w4"], max_tokens=32)
    with torch.no_grad():
        clips = Preprocessing(frames=2, size=32).normalise(frames)
        video = model.embed_video(clips).mean(1)
        words = model.embed_text(ids.input_ids, ids.attention_mask)
        hidden = model.encode_text(ids.input_ids, ids.attention_mask).expand(2, -1, -1)
        mask = ids.attention_mask.expand(2, -1)
        logits = model.match(hidden, mask, model.encode_vision(clips).tokens)[:, 1]
    torch.testing.assert_close(encoder.encode_video(frames), video)
    torch.testing.assert_close(encoder.encode_text(["w3 w1 w4"]), words)
    tokens = encoder.text_tokens(["w3 w1 w4"] * 2), encoder.video_tokens(frames)
    torch.testing.assert_close(encoder.match(*tokens), logits)


@pytest.mark.parametrize("variant", VISION_ONLY)
def test_an_encoder_or_classifier_gives_what_one_built_by_hand_gives(variant, tmp_path):
    state = random_state(variant, small=True)
    done = convert_checkpoint(save(state, tmp_path / "a.pth"), tmp_path / "out")
    loaded = load_vision_model(tmp_path / "out")
    assert loaded.fingerprint == done.fingerprint
    width, classes = state["cls_token"].shape[-1], 10 if "head.weight" in state else 0
    config = VideoMambaConfig(
        image_size=32, frames=2, depth=2, width=width,
        alignment_layers=0 if classes else 1, alignment_width=32 if not classes else 512,
    )  # fmt: skip
    model = VisionModel(config, classes=classes).eval()
    outcome = model.encoder.load_state_dict(
        {n.replace("norm_f.", "norm."): t for n, t in state.items() if "head." not in n[:5]},
        strict=False,
    )
    assert set(outcome.missing_keys) == {"pool_norm.weight", "pool_norm.bias"}
    clips = loaded.preprocessing.normalise(frames_of(config))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.features(clips), model.features(clips))
        if classes:
            logits = model.features(clips) @ state["head.weight"].T + state["head.bias"]
            torch.testing.assert_close(loaded.model(clips), logits)
    with pytest.raises(ValueError, match="cannot embed texts"):
        load_model(tmp_path / "out")


def test_a_real_sized_classifier_converts(tmp_path):
    """VideoMamba-Ti at its published size: 7.03 M parameters in 416 tensors."""
    state = random_state("sm_videomamba_tiny")
    convert_checkpoint(save(state, tmp_path / "a.pth"), tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert len(stored) == len(state) == 416
    for name, tensor in state.items():
        assert torch.equal(stored[name.replace("norm_f.", "norm.")], tensor), name
    load_vision_model(tmp_path / "out")


def test_the_same_file_gives_the_same_folder(tmp_path, vocabulary):
    path = save(random_state("UMT_VIDEOMAMBA_middle_retrieval", small=True), tmp_path / "a.pth")
    first, second = (
        convert_checkpoint(path, tmp_path / name, options=options(vocabulary))
        for name in ("one", "two")
    )
    assert first.fingerprint == second.fingerprint
    for name in ("config.json", "golden.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_vocabulary_is_refused(tmp_path):
    path = save(random_state(VIDEO_TEXT[0], small=True), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"60 tokens, the vocabulary 30522.*--vocabulary"):
        convert_checkpoint(path, tmp_path / "out")


# Other resolutions, more frames, images


@pytest.mark.parametrize(
    ("name", "frames", "grid"),
    [("t8to16", 16, 7), ("t8to12", 12, 7), ("t4to8", 8, 7), ("t16to8", 8, 7), ("s14to7", 8, 7),
     ("s7to14", 8, 14), ("s14to24_t8to16", 16, 24)],
)  # fmt: skip
def test_positions_are_interpolated_as_published(
    name, frames, grid, tmp_path, golden_dir, assert_close
):
    case = load_file(golden_dir / "ckpt_interp.safetensors")
    state = random_state("sm_videomamba_tiny", small=True)
    for part in ("pos_embed", "temporal_pos_embedding"):
        state[part] = case[f"in.{name}.{part}"]
    wanted = options(frames=frames, size=16 * grid)
    convert_checkpoint(save(state, tmp_path / "a.pth"), tmp_path / "out", options=wanted)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for part in ("pos_embed", "temporal_pos_embedding"):
        assert_close(stored[part], case[f"out.{name}.{part}"])
    loaded = load_vision_model(tmp_path / "out")
    assert (loaded.preprocessing.frames, loaded.preprocessing.size) == (frames, 16 * grid)


def test_the_video_encoder_of_a_pair_is_refitted_too(tmp_path, vocabulary):
    path = save(random_state(VIDEO_TEXT[0], small=True), tmp_path / "a.pth")
    wanted = options(vocabulary, frames=4, size=48)
    convert_checkpoint(path, tmp_path / "out", options=wanted)
    encoder = load_model(tmp_path / "out")
    assert encoder.encode_video(frames_of(encoder.model.config.vision)).shape == (2, 32)


@pytest.mark.parametrize("tubelet", [1, 2])
def test_an_image_model_becomes_a_video_model(tmp_path, tubelet):
    state = random_state("sm_videomamba_tiny", small=True)
    del state["temporal_pos_embedding"]
    flat = state["patch_embed.proj.weight"][:, :, 0]
    state["patch_embed.proj.weight"] = flat
    path = save(state, tmp_path / "a.pth")
    image = convert_checkpoint(path, tmp_path / "image")
    assert image.layout.image_only
    assert load_vision_model(tmp_path / "image").model.config.frames == 1
    wanted = options(frames=4, tubelet_size=tubelet)
    convert_checkpoint(path, tmp_path / "video", options=wanted)
    stored = load_file(tmp_path / "video" / "model.safetensors")
    weight = stored["patch_embed.proj.weight"]
    assert weight.shape == (16, 3, tubelet, 16, 16)
    assert torch.equal(weight[:, :, tubelet // 2], flat)
    assert weight.count_nonzero() == flat.count_nonzero()
    assert torch.equal(stored["temporal_pos_embedding"], torch.zeros(1, 4 // tubelet, 16))


def test_the_tubelets_of_a_video_model_stay(tmp_path):
    path = save(random_state("sm_videomamba_tiny", small=True), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="only an image model can be inflated"):
        convert_checkpoint(path, tmp_path / "out", options=options(tubelet_size=2))


@pytest.mark.parametrize("wanted", [{"size": 40}, {"frames": -1}])
def test_impossible_sizes_are_refused(wanted, tmp_path):
    path = save(random_state("sm_videomamba_tiny", small=True), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"multiple of patch_size|must be 1 or more"):
        convert_checkpoint(path, tmp_path / "out", options=options(**wanted))


# The golden embedding


@pytest.fixture
def converted(tmp_path, vocabulary):
    path = save(random_state(VIDEO_TEXT[0], small=True), tmp_path / "a.pth")
    convert_checkpoint(path, tmp_path / "out", options=options(vocabulary))
    return tmp_path / "out"


def test_loading_notices_a_device_that_computes_something_else(converted, monkeypatch):
    load_model(converted)
    honest = VideoTextModel.project_vision
    monkeypatch.setattr(
        VideoTextModel, "project_vision", lambda self, pooled: honest(self, pooled * 1.5 + 0.3)
    )
    with pytest.raises(ValueError, match=r"video vector of the test clip is .* away.*--device cpu"):
        load_model(converted)
    load_model(converted, verify_golden=False)


@pytest.mark.parametrize("part", ["video", "text", "match"])
def test_every_stored_vector_is_compared(converted, part):
    golden = json.loads((converted / "golden.json").read_text())
    golden[part][0] += 0.5
    (converted / "golden.json").write_text(json.dumps(golden))
    with pytest.raises(ValueError, match=f"the {part} vector"):
        load_model(converted)


@pytest.mark.parametrize("content", [None, "", "[]", '{"fingerprint": "other", "video": [1.0]}'])
def test_a_golden_embedding_that_is_gone_or_foreign_is_refused(converted, content):
    (converted / "golden.json").unlink()
    if content is not None:
        (converted / "golden.json").write_text(content)
    with pytest.raises(ValueError, match=r"golden\.json.*copy the whole model folder again"):
        load_model(converted)


def test_weights_that_give_no_numbers_are_not_converted(tmp_path):
    state = random_state("sm_videomamba_tiny", small=True)
    state["norm_f.weight"][3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        convert_checkpoint(save(state, tmp_path / "a.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
