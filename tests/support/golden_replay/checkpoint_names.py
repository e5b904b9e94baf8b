"""checkpoint_names*.json: names, shapes and counts of every published checkpoint.

A model is built from the sizes that the shapes show. It must have these names, these shapes and
these types, and as many parameters; and the published optimiser's groups must come out.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from golden_replay.case import Score, json_file
from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.clip_weights import CHANNELS_PER_HEAD
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, load_published
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_checkpoint import fit_encoder_state
from reelscan.models.weights import load_strict
from reelscan.pretrain.optimizer import decays

Names = dict[str, list[object]]
CLASSIFIER_HEAD = ("head.weight", "head.bias")


def replay(path: Path, score: Score) -> None:
    stored = json_file(path)
    for name, entry in stored.items():
        if name.startswith("_optimizer."):
            _optimizer_group(score, stored, name)
        elif name.startswith("_n_params."):
            assert name.removeprefix("_n_params.") in stored, f"{name} counts no stored model"
        else:
            _model(score, name, entry, stored.get(f"_n_params.{name}"))


def _model(score: Score, name: str, names: Names, parameters: int | None) -> None:
    with torch.device("meta"):
        built = _video_text(names) if "temp" in names else _encoder(names)
    found = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in built.items()
    }
    score.fact(f"{name}: names", sorted(found), sorted(names))
    for key in names:
        score.fact(f"{name}: {key}", found.get(key), names[key])
    if parameters is not None:
        score.fact(f"_n_params.{name}", _count(built), parameters)


def _count(tensors: dict[str, Tensor]) -> int:
    """Parameters as published: tied ones once, position ids not at all."""
    tied = ("predictions.decoder.weight", "predictions.decoder.bias", "position_ids")
    return sum(t.numel() for name, t in tensors.items() if not name.endswith(tied))


def _vision_config(names: Names) -> VideoMambaConfig:
    shapes = {name: shape for name, (shape, _dtype) in names.items()}
    width, _, tubelet, patch, _ = shapes["patch_embed.proj.weight"]
    side = math.isqrt(shapes["pos_embed"][1] - 1)
    decoders = [shape for name, shape in shapes.items() if name.endswith("head.weight")]
    decoders = [s for s in decoders if "clip_decoder.0.head.weight" in shapes]
    layers = {name.split(".")[1] for name in shapes if name.startswith("layers.")}
    aligned = {name.split(".")[1] for name in shapes if name.startswith("clip_decoder.")}
    inner, _, taps = shapes["layers.0.mixer.conv1d.weight"]
    return VideoMambaConfig(
        image_size=side * patch,
        patch_size=patch,
        frames=shapes["temporal_pos_embedding"][1] * tubelet,
        tubelet_size=tubelet,
        depth=len(layers),
        width=width,
        state_size=shapes["layers.0.mixer.A_log"][1],
        conv_width=taps,
        expand=inner // width,
        norm="layer" if "norm.bias" in shapes or "norm_f.bias" in shapes else "rms",
        alignment_layers=len(aligned),
        alignment_width=shapes["clip_decoder.0.head.weight"][0] if decoders else 512,
    )


def _encoder(names: Names) -> dict[str, Tensor]:
    """An encoder, or a classifier: it goes through the loader, which renames and refuses."""
    config = _vision_config(names)
    model = VideoMamba(config)
    load_strict(model, fit_encoder_state(_empty(names), config), allowed_missing=("pool_norm.*",))
    ours = dict(model.state_dict())
    if "norm_f.weight" in names:
        for part in [name for name in ours if name.startswith("norm.")]:
            ours[part.replace("norm.", "norm_f.")] = ours.pop(part)
    # The loader leaves the classes out, and an encoder without pooling lacks its norm.
    ours |= {name: tensor for name, tensor in _empty(names).items() if name in CLASSIFIER_HEAD}
    return {k: t for k, t in ours.items() if k in names or not k.startswith("pool_norm.")}


def _video_text(names: Names) -> dict[str, Tensor]:
    vision = {
        name.removeprefix("vision_encoder."): entry
        for name, entry in names.items()
        if name.startswith("vision_encoder.")
    }
    config = VideoTextConfig(
        vision=_vision_config(vision),
        text=_bert_config(names),
        embed_dim=names["vision_proj.weight"][0][0],
    )
    model = VideoTextModel(config)
    load_published(model, _empty(names))
    ours = dict(model.state_dict())
    if not any(name.startswith("text_encoder.cls.") for name in names):
        ours = {
            name.replace("text_encoder.bert.", "text_encoder."): tensor
            for name, tensor in ours.items()
            if not name.startswith("text_encoder.cls.")
        }
    if any(name.startswith("clip_teacher.") for name in names):
        teacher = _teacher(names)
        ours |= {f"clip_teacher.{name}": t for name, t in teacher.state_dict().items()}
    return ours


def _bert_config(names: Names) -> BertConfig:
    prefix = (
        "text_encoder.bert." if any("text_encoder.bert." in n for n in names) else "text_encoder."
    )
    shape = {name: entry[0] for name, entry in names.items()}
    layer = f"{prefix}encoder.layer."
    layers = {
        int(name.removeprefix(layer).split(".")[0]) for name in names if name.startswith(layer)
    }
    fused = {
        int(name.removeprefix(layer).split(".")[0])
        for name in names
        if name.startswith(layer) and ".crossattention." in name
    }
    vocabulary, width = shape[f"{prefix}embeddings.word_embeddings.weight"]
    first = min(fused)
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(layers),
        fusion_layer=first,
        encoder_width=shape[f"{layer}{first}.crossattention.self.key.weight"][1],
        num_attention_heads=max(1, width // 64),
        intermediate_size=shape[f"{layer}0.intermediate.dense.weight"][0],
        max_position_embeddings=shape[f"{prefix}embeddings.position_embeddings.weight"][0],
        type_vocab_size=shape[f"{prefix}embeddings.token_type_embeddings.weight"][0],
    )


def _teacher(names: Names) -> nn.Module:
    shape = {
        name.removeprefix("clip_teacher."): entry[0]
        for name, entry in names.items()
        if name.startswith("clip_teacher.")
    }
    width, patch = shape["conv1.weight"][0], shape["conv1.weight"][-1]
    blocks = {name.split(".")[2] for name in shape if name.startswith("transformer.resblocks.")}
    return ClipVision(
        ClipVisionConfig(
            image_size=math.isqrt(shape["positional_embedding"][0] - 1) * patch,
            patch_size=patch,
            width=width,
            layers=len(blocks),
            heads=max(1, width // CHANNELS_PER_HEAD),
            output_dim=shape["proj"][1],
        )
    )


def _empty(names: Names) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {
        name: torch.empty(shape, dtype=getattr(torch, str(dtype)), device="meta")
        for name, (shape, dtype) in names.items()
    }


def _optimizer_group(score: Score, stored: dict[str, Names], group: str) -> None:
    """Which parameters decay in the published optimiser, whose model is the unmasked one."""
    kind = group.removeprefix("_optimizer.")
    assert kind in ("decay", "no_decay"), f"{group} is no known group"
    shapes = {
        name: entry[0]
        for key, names in stored.items()
        if key[0] != "_"
        for name, entry in names.items()
    }
    for name in stored[group]:
        parameter = torch.empty(shapes[name], device="meta")
        decided = decays(name, parameter, published_decay=True)
        score.fact(f"{group}: {name}", decided, kind == "decay")
