"""A small model of random weights, as a folder."""

from pathlib import Path

import torch

from reelscan.models.bert import BertConfig
from reelscan.models.model_directory import save_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig


def save_random_model(
    path: Path, *, texts: list[str], seed: int = 0, matching: bool = True
) -> Path:
    """Clips of 4 frames of 16 pixels; it knows the words of these texts."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.bert_uncased().restricted_to(texts)
    config = VideoTextConfig(
        vision=VideoMambaConfig(image_size=16, patch_size=8, frames=4, depth=1, width=16),
        text=BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            num_hidden_layers=2,
            fusion_layer=1,
            encoder_width=16,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=48,
        ),
        embed_dim=8,
        matching_trained=matching,
    )
    preprocessing = Preprocessing(frames=4, size=16, max_text_tokens=8)
    save_model(VideoTextModel(config), tokenizer, preprocessing, path)
    return path
