"""A video-text model for tests of training: two blocks, 16 px, two frames."""

from reelscan.models.bert import BertConfig
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig

TINY_MODEL = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=2, width=24, alignment_width=12
    ),
    text=BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        fusion_layer=1,
        encoder_width=24,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    ),
    embed_dim=10,
)
