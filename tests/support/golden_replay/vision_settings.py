"""From the published names of a video encoder's settings to ours."""

from golden_replay.settings import Settings
from reelscan.models.videomamba_config import VideoMambaConfig


def vision_config(settings: Settings, **changes: object) -> VideoMambaConfig:
    """The encoder that these settings describe; what they leave out is the published default."""
    _check_fixed(settings)
    norm = "rms" if settings.get("rms_norm", True) else "layer"
    tubelet = settings.get("kernel_size", settings.get("tubelet_size", 1))
    values = {
        "image_size": settings["img_size"],
        "patch_size": settings["patch_size"],
        "frames": settings["num_frames"],
        "tubelet_size": tubelet,
        "depth": settings["depth"],
        "width": settings["embed_dim"],
        "drop_path_rate": settings.get("drop_path_rate", 0.0),
        "norm": norm,
        "norm_epsilon": settings.get("norm_epsilon", 1e-5),
        "pooling": settings.get("pool_type", "cls+avg"),
        "alignment_layers": settings.whole_number("clip_return_layer", 0),
        "alignment_interval": settings.whole_number("clip_student_return_interval", 1),
        "alignment_width": settings.get("clip_output_dim", 512),
        "last_alignment_before_mixer": settings.get("fused_add_norm", True),
    }
    return VideoMambaConfig(**(values | changes))


def _check_fixed(settings: Settings) -> None:
    """What our encoder has one way of, and what changes no value."""
    settings.must_be(
        bimamba=True,
        bimamba_type={"v2"},
        ssm_cfg=None,
        channels=3,
        clip_decoder_embed_dim=settings["embed_dim"],
        ckpt_num_frame=settings["num_frames"],
        add_pool_norm=True,
        # The stored parameters are float32, so a stream in their type is the same.
        residual_in_fp32={True, False},
    )
    settings.irrelevant(
        reason="a name, weights loaded elsewhere, or memory saved by computing twice",
        keys=("name", "pretrained", "use_checkpoint", "checkpoint_num", "note"),
    )
