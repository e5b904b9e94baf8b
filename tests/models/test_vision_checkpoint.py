import torch

from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_checkpoint import fit_encoder_state


def config(**changes):
    values = {"image_size": 16, "patch_size": 4, "frames": 4, "depth": 2, "width": 16}
    return VideoMambaConfig(**(values | {"alignment_width": 8, "state_size": 4} | changes))


def test_another_size_and_length_load_strictly():
    source = VideoMamba(config()).state_dict()
    target = config(image_size=24, frames=6)
    model = VideoMamba(target)
    model.load_state_dict(fit_encoder_state(source, target))
    assert model.pos_embed.shape[1] == 37 and model.temporal_pos_embedding.shape[1] == 6


def test_the_same_shape_is_left_alone():
    source = VideoMamba(config()).state_dict()
    fitted = fit_encoder_state(source, config())
    assert fitted.keys() == source.keys()
    assert all(fitted[name] is source[name] for name in source)


def test_an_image_classifier_becomes_an_encoder():
    model = VideoMamba(config(tubelet_size=2))
    state = model.state_dict()
    classifier = {
        name.replace("norm.", "norm_f.") if name.startswith("norm.") else name: tensor
        for name, tensor in state.items()
        if not name.startswith(("pool_norm", "clip_decoder"))
    }
    classifier |= {"head.weight": torch.zeros(3, 16), "head.bias": torch.zeros(3)}
    classifier["patch_embed.proj.weight"] = torch.randn(16, 3, 4, 4)
    fitted = fit_encoder_state(classifier, config(tubelet_size=2))
    outcome = model.load_state_dict(fitted, strict=False)
    assert not outcome.unexpected_keys
    assert {name.split(".")[0] for name in outcome.missing_keys} == {"pool_norm", "clip_decoder"}
    assert "norm_f.weight" in classifier, "the given state was changed"
