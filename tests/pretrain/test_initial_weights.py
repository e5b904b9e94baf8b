from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reelscan.models.bert import BertConfig
from reelscan.models.model_directory import save_model
from reelscan.models.positions import interpolate_spatial, interpolate_temporal
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.checkpoint import CheckpointWriter
from reelscan.pretrain.checkpoint_files import RunState
from reelscan.pretrain.initial_weights import load_initial_model, load_initial_text_encoder
from reelscan.pretrain.optimizer import build_optimizer

CONFIG = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=1, width=16, alignment_width=8
    ),
    text=BertConfig(
        vocab_size=7,
        hidden_size=16,
        num_hidden_layers=2,
        fusion_layer=1,
        encoder_width=16,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    ),
    embed_dim=8,
)


def build(seed: int, config: VideoTextConfig = CONFIG) -> VideoTextModel:
    torch.manual_seed(seed)
    return VideoTextModel(config)


def saved_directory(folder: Path) -> tuple[VideoTextModel, Path]:
    model = build(1)
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    save_model(model, tokenizer, Preprocessing(frames=2, size=16), folder / "model")
    return model, folder / "model"


def differing(model: VideoTextModel, other: VideoTextModel) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in model.state_dict().items() if not value.equal(theirs[name])}


def test_everything_is_taken_from_a_model_directory(tmp_path):
    saved, path = saved_directory(tmp_path)
    model = build(2)
    load_initial_model(model, path, part="everything")
    assert not differing(model, saved)


def test_a_checkpoint_serves_as_well(tmp_path):
    saved = build(1)
    # What is trained beside the model, and its optimizer, are of no use here.
    trained = nn.ModuleDict({"model": saved, "beside": nn.Linear(2, 2)})
    optimizer = build_optimizer(trained, learning_rate=1.0)
    with CheckpointWriter(tmp_path, keep_last=1) as checkpoints:
        path = checkpoints.save(trained, optimizer, RunState(step=1))
    model = build(2)
    load_initial_model(model, path, part="everything")
    assert not differing(model, saved)


def test_the_vision_encoder_alone_leaves_the_rest_as_it_was(tmp_path):
    saved, path = saved_directory(tmp_path)
    model, untouched = build(2), build(2)
    load_initial_model(model, path, part="vision_encoder")
    assert all(not name.startswith("vision_encoder.") for name in differing(model, saved))
    changed = differing(model, untouched)
    assert changed and all(name.startswith("vision_encoder.") for name in changed)


def test_a_published_first_stage_file_has_no_prefix_and_no_pool_norm(tmp_path):
    saved = build(1)
    state = {
        name: value
        for name, value in saved.vision_encoder.state_dict().items()
        if not name.startswith("pool_norm.")
    }
    torch.save({"model": state}, tmp_path / "first.pth")
    model = build(2)
    load_initial_model(model, tmp_path / "first.pth", part="vision_encoder")
    for name, value in state.items():
        assert value.equal(model.vision_encoder.state_dict()[name]), name


@pytest.mark.parametrize("part", ["everything", "vision_encoder"])
def test_positions_are_carried_over_to_more_and_larger_frames(tmp_path, part):
    saved, path = saved_directory(tmp_path)
    larger = replace(CONFIG, vision=replace(CONFIG.vision, frames=4, image_size=32))
    model = build(2, larger)
    load_initial_model(model, path, part=part)
    old, new = saved.vision_encoder, model.vision_encoder
    assert new.pos_embed.equal(interpolate_spatial(old.pos_embed, side=4))
    expected = interpolate_temporal(old.temporal_pos_embedding, frames=4)
    assert new.temporal_pos_embedding.equal(expected)


def test_another_architecture_is_refused(tmp_path):
    _, path = saved_directory(tmp_path)
    wider = replace(CONFIG, vision=replace(CONFIG.vision, depth=2))
    with pytest.raises(ValueError, match="do not fit"):
        load_initial_model(build(2, wider), path, part="vision_encoder")


def huggingface_file(path: Path, *, head: bool) -> VideoTextModel:
    """A BERT as transformers saves it: no fusion, tied names once."""
    source = build(3)
    state = {}
    for name, value in source.text_encoder.state_dict().items():
        fusion = "crossattention" in name or "decoder" in name or "position_ids" in name
        if not fusion and (head or not name.startswith("cls.")):
            state[name] = value.clone()
    save_file(state, path)
    return source


@pytest.mark.parametrize("head", [True, False])
def test_a_text_encoder_is_taken_from_a_hugging_face_file(tmp_path, head):
    source = huggingface_file(tmp_path / "bert.safetensors", head=head)
    model = build(2)
    load_initial_text_encoder(model, tmp_path / "bert.safetensors")
    mine, theirs = model.text_encoder.state_dict(), source.text_encoder.state_dict()
    for name in mine:
        is_new = "crossattention" in name
        own_head = "predictions.transform.dense.weight" in name and not head
        if "weight" in name and "LayerNorm" not in name:
            assert mine[name].equal(theirs[name]) != (is_new or own_head), name
