"""The CLIP image tower: shapes, masks, resizing, other libraries' weights, and training."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reelscan.models.clip_vit import (
    ClipVision,
    ClipVisionConfig,
    clip_vit_base_patch16,
    resize_bicubic,
)
from reelscan.models.clip_weights import (
    clip_vision_from_weights,
    from_hugging_face_state,
    from_open_clip_state,
)
from reelscan.models.torchvision_mismatch import importable_torchvision
from reelscan.models.weights import load_strict

CONFIG = ClipVisionConfig(
    image_size=16, patch_size=4, width=24, layers=4, heads=3, output_dim=10, quick_gelu=True
)


def build(config: ClipVisionConfig = CONFIG) -> ClipVision:
    torch.manual_seed(0)
    return ClipVision(config).eval()


def random_clips(*, batch: int = 2, frames: int = 3, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, 3, size, size, generator=generator)


def test_frames_are_seen_one_by_one_and_class_features_averaged(assert_close):
    teacher, clips = build(), random_clips()
    with torch.no_grad():
        output = teacher(clips)
        frames = [teacher(clips[:, t : t + 1]) for t in range(3)]
    assert output.features.shape == (1, 2, 1 + 3 * 16, 10)
    assert output.attention.shape == (6, 16)
    class_features = torch.stack([frame.features[:, :, 0] for frame in frames]).mean(dim=0)
    assert_close(output.features[:, :, 0], class_features)
    patches = torch.cat([frame.features[:, :, 1:] for frame in frames], dim=2)
    assert_close(output.features[:, :, 1:], patches)
    assert_close(output.attention.view(2, 3, 16), torch.stack([f.attention for f in frames], dim=1))


def test_attention_is_a_part_of_a_distribution():
    with torch.no_grad():
        attention = build()(random_clips()).attention
    assert (attention > 0).all()
    assert (attention.sum(dim=1) < 1).all()


def test_layers_come_shallow_to_deep(assert_close):
    config = replace(CONFIG, return_layers=2, return_interval=2)
    assert config.returned_blocks == (1, 3)
    teacher, clips = build(config), random_clips()
    last = build(CONFIG)
    with torch.no_grad():
        features = teacher(clips).features
        assert_close(features[1:], last(clips).features)
        # Two blocks that add nothing make the features of blocks 1 and 3 the same.
        for block in teacher.transformer.resblocks[2:]:
            for linear in (block.attn.out_proj, block.mlp.c_proj):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        shallow = teacher(clips).features
    assert_close(shallow[0], features[0])
    assert_close(shallow[1], features[0])


def test_hidden_patches_have_no_influence(assert_close):
    teacher, clips = build(), random_clips()
    mask = torch.zeros(2, 3, 16, dtype=torch.bool)
    mask[0, :, :8], mask[1, :, 4:12] = True, True
    changed = clips.clone()
    changed[0, :, :, :8] += 1  # the upper half: patches 0 to 7
    changed[1, :, :, 4:12] += 1
    with torch.no_grad():
        output = teacher(clips, mask=mask.flatten(1))
        again = teacher(changed, mask=mask.flatten(1))
    assert output.features.shape == (1, 2, 1 + 3 * 8, 10)
    assert output.attention.shape == (6, 8)
    assert_close(again.features, output.features)


def test_masks_that_do_not_fit_are_refused():
    teacher, clips = build(), random_clips()
    uneven = torch.zeros(2, 48, dtype=torch.bool)
    uneven[:, :5] = True
    with pytest.raises(ValueError, match="11 to 16 patches visible"):
        teacher(clips, mask=uneven)
    with pytest.raises(ValueError, match=r"give a bool mask \[B, T\*HW\] = \[2, 48\]"):
        teacher(clips, mask=torch.zeros(2, 49, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool mask"):
        teacher(clips, mask=torch.zeros(2, 48))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 2, 16, 16)])
def test_clips_of_another_layout_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, T, 3, H, W\]"):
        build()(torch.zeros(shape))


def test_frames_of_another_size_are_resized(assert_close):
    teacher, clips = build(), random_clips(size=22)
    resized = resize_bicubic(clips.flatten(0, 1), 16).unflatten(0, (2, 3))
    with torch.no_grad():
        assert_close(teacher(clips).features, teacher(resized).features)


def test_l2_features_have_length_one(assert_close):
    clips = random_clips()
    with torch.no_grad():
        plain = build()(clips).features
        unit = build(replace(CONFIG, l2_features=True))(clips).features
    assert_close(unit, F.normalize(plain, dim=-1))


def test_without_the_class_token_patches_pass_the_last_norm(assert_close):
    teacher = build(replace(CONFIG, class_feature=False))
    with torch.no_grad():
        teacher.ln_post.weight.mul_(2)
        features = teacher(random_clips()).features
        teacher.ln_post.weight.mul_(3)
        assert_close(teacher(random_clips()).features, 3 * features)
    assert features.shape == (1, 2, 48, 10)


def test_images_train_the_tower():
    tower = build().train()
    images = random_clips(batch=1, frames=4)[0]
    target = F.normalize(torch.randn(4, 10, generator=torch.Generator().manual_seed(2)), dim=-1)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        embedded = tower.embed_images(images)
        assert embedded.shape == (4, 10)
        logits = F.normalize(embedded, dim=-1) @ target.T / 0.1
        loss = F.cross_entropy(logits, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    assert losses[-1] < 0.2 * losses[0]


def test_image_vectors_are_the_normed_and_projected_class_token(assert_close):
    tower, image = build(replace(CONFIG, output_dim=24)), random_clips(frames=1)
    with torch.no_grad():
        nn.init.eye_(tower.proj)
        nn.init.normal_(tower.ln_post.weight)
        class_token = tower(image).features[0, :, 0]
        assert_close(tower.embed_images(image[:, 0]), tower.ln_post(class_token))
    with pytest.raises(ValueError, match=r"give \[B, 3, H, W\]"):
        tower.embed_images(image)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"patch_size": 5}, "no multiple of patch_size 5"),
        ({"heads": 5}, "5 heads"),
        ({"layers": 0}, "layers is 0"),
        ({"return_layers": 3, "return_interval": 2}, "do not fit into 4 blocks"),
    ],
)
def test_impossible_sizes_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(CONFIG, **change)


def test_base_patch16_has_the_published_names_and_shapes(golden_dir):
    published = json.loads((golden_dir / "checkpoint_names.json").read_text())
    names = published["UMT_VIDEOMAMBA_middle_pretrain_masked_with_teacher"]
    expected = {
        name.removeprefix("clip_teacher."): shape
        for name, (shape, _) in names.items()
        if name.startswith("clip_teacher.")
    }
    with torch.device("meta"):
        teacher = ClipVision(clip_vit_base_patch16())
    assert {name: list(tensor.shape) for name, tensor in teacher.state_dict().items()} == expected


@pytest.fixture
def open_clip():
    importable_torchvision()
    return pytest.importorskip("open_clip")


@pytest.fixture
def transformers():
    importable_torchvision()
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_agrees_with_open_clip(quick_gelu, open_clip, assert_close):
    torch.manual_seed(3)
    theirs = open_clip.model.VisionTransformer(
        image_size=16,
        patch_size=4,
        width=24,
        layers=4,
        heads=3,
        mlp_ratio=4,
        output_dim=10,
        act_layer=open_clip.model.QuickGELU if quick_gelu else nn.GELU,
    ).eval()
    tower = theirs.state_dict()
    whole = {f"visual.{name}": tensor for name, tensor in tower.items()}
    whole |= {"text_projection": torch.ones(1), "logit_scale": torch.ones(())}
    images = random_clips(frames=1)[:, 0]
    for state in (tower, whole):
        ours = build(replace(CONFIG, quick_gelu=quick_gelu))
        load_strict(ours, from_open_clip_state(state))
        with torch.no_grad():
            assert_close(ours.embed_images(images), theirs(images))


def hugging_face_tower(transformers) -> nn.Module:
    torch.manual_seed(4)
    config = transformers.CLIPVisionConfig(
        image_size=16,
        patch_size=4,
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        projection_dim=10,
        hidden_act="quick_gelu",
        initializer_factor=2.0,
        attn_implementation="eager",
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def test_agrees_with_hugging_face(transformers, assert_close):
    theirs = hugging_face_tower(transformers)
    ours = build(replace(CONFIG, return_layers=2, return_interval=2))
    load_strict(ours, from_hugging_face_state(theirs.state_dict()))
    images = random_clips(frames=1)
    with torch.no_grad():
        expected = theirs(images[:, 0], output_hidden_states=True, output_attentions=True)
        found = ours(images)
        assert_close(ours.embed_images(images[:, 0]), expected.image_embeds)
        hidden = torch.stack([expected.hidden_states[2], expected.hidden_states[4]])
        assert_close(found.features, hidden @ ours.proj)
    assert_close(found.attention, expected.attentions[-1].mean(dim=1)[:, 0, 1:])


def test_hugging_face_names_of_a_whole_model_are_taken(transformers):
    tower = hugging_face_tower(transformers).state_dict()
    extra = {
        "text_model.final_layer_norm.weight": torch.ones(3),
        "text_projection.weight": torch.ones(3),
        "logit_scale": torch.ones(()),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    load_strict(build(), from_hugging_face_state(tower | extra))


def test_hugging_face_weights_without_a_projection_are_refused():
    with pytest.raises(ValueError, match=r"visual_projection.weight is missing.*CLIPModel"):
        from_hugging_face_state({"embeddings.class_embedding": torch.ones(3)})


def test_incomplete_hugging_face_weights_are_named_on_loading(transformers):
    state = hugging_face_tower(transformers).state_dict()
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"1 missing: transformer.resblocks.1.attn.in_proj_bias"):
        load_strict(build(), from_hugging_face_state(state))


def test_sizes_follow_from_open_clip_weights(open_clip, assert_close):
    config = replace(CONFIG, heads=2)
    state = {f"visual.{name}": tensor for name, tensor in build(config).state_dict().items()}
    state["visual.conv1.weight"] = state["visual.conv1.weight"].squeeze(2)
    state |= {
        "text_projection": torch.ones(3),
        "transformer.resblocks.0.ln_1.weight": torch.ones(3),
    }
    tower = clip_vision_from_weights(state, heads=2)
    assert tower.config == config
    clips = random_clips()
    assert_close(tower(clips).features, build(config)(clips).features)


def test_sizes_follow_from_hugging_face_weights(transformers):
    tower = clip_vision_from_weights(hugging_face_tower(transformers).state_dict(), heads=3)
    assert (tower.config.width, tower.config.layers, tower.config.heads) == (24, 4, 3)


def test_other_weights_are_no_tower():
    with pytest.raises(ValueError, match=r"no weights of a CLIP.*conv1\.weight"):
        clip_vision_from_weights({"layer.weight": torch.ones(3, 3)})
