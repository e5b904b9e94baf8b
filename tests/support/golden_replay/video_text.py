"""The whole model of a case, from its published settings and weights."""

from golden_replay.case import Case
from golden_replay.settings import Settings
from golden_replay.text_settings import bert_config
from golden_replay.vision_settings import vision_config
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, load_published


def build_model(case: Case) -> VideoTextModel:
    """With weights, in evaluation mode, on the device."""
    model_settings: Settings = case.settings["model"]
    vision: Settings = model_settings["vision_encoder"]
    text: Settings = model_settings["text_encoder"]
    config = VideoTextConfig(
        vision=vision_config(vision),
        text=bert_config(case.settings["bert"]),
        embed_dim=model_settings["embed_dim"],
        temperature=model_settings["temp"],
    )
    text.must_be(d_model=config.text.hidden_size, fusion_layer=config.text.fusion_layer)
    text.irrelevant(reason="names of files", keys=("name", "pretrained", "config"))
    model_settings["multimodal"].must_be(enable=True)
    model = VideoTextModel(config)
    load_published(model, case.group("param."))
    return model.to(case.device).eval()


def check_fixed(settings: Settings) -> None:
    """What replays have one way of."""
    settings.must_be(deep_fusion=False, distributed=False, fp16=False, bf16=False)
    settings.irrelevant(
        reason="memory saved by computing twice, and a description",
        keys=("gradient_checkpointing", "note"),
    )
