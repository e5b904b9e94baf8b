"""The published evaluation from videos and texts to reranked scores, with the real model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reelscan.models.bert import BertConfig
from reelscan.models.encoder import TextTokens
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, load_published
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.retrieval.rerank import rerank

CASE = Path(__file__).parents[1] / "golden" / "eval_pipeline_kt1"


class StoredInputs:
    """A `MatchingEncoder` of the stored videos (a clip's pixels are its number) and texts."""

    fingerprint = "published"
    preprocessing = Preprocessing(frames=1, size=1)

    can_match = True

    def __init__(self, model, stored):
        self.model = model
        self.stored = stored
        self.embed_dim = model.config.embed_dim

    def encode_video(self, frames_uint8):
        return self.model.embed_video(self._videos(frames_uint8)).mean(dim=1)

    def encode_text(self, texts):
        return self.model.embed_text(*self._texts(texts))

    def video_tokens(self, frames_uint8):
        return self.model.encode_vision(self._videos(frames_uint8)).tokens

    def text_tokens(self, texts):
        ids, mask = self._texts(texts)
        return TextTokens(hidden=self.model.encode_text(ids, mask), attention_mask=mask)

    def match(self, text_tokens, video_tokens):
        mask = text_tokens.attention_mask
        return self.model.match(text_tokens.hidden, mask, video_tokens)[:, 1]

    def _videos(self, frames_uint8):
        return self.stored["in.videos"][frames_uint8[:, 0, 0, 0, 0].long()]

    def _texts(self, texts):
        rows = [int(text) for text in texts]
        return self.stored["in.input_ids"][rows], self.stored["in.attention_mask"][rows]


@pytest.fixture(scope="module")
def stored():
    return load_file(CASE.with_suffix(".safetensors"))


@pytest.fixture(scope="module")
def encoder(stored):
    config = json.loads(CASE.with_suffix(".config.json").read_text())
    bert = BertConfig.__dataclass_fields__
    model = VideoTextModel(
        VideoTextConfig(
            vision=VideoMambaConfig(
                image_size=32,
                patch_size=8,
                frames=4,
                tubelet_size=1,
                depth=2,
                width=48,
                pooling="cls+avg",
                alignment_layers=1,
                alignment_width=24,
            ),
            text=BertConfig(**{name: of for name, of in config["bert"].items() if name in bert}),
            embed_dim=20,
        )
    )
    parameters = {name: tensor for name, tensor in stored.items() if name.startswith("param.")}
    load_published(model, {name[len("param.") :]: of for name, of in parameters.items()})
    return StoredInputs(model.eval(), stored)


@pytest.mark.parametrize("top", [5, 128])
@torch.no_grad()
def test_published_scores_are_met(encoder, stored, top):
    clips = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)
    texts = [str(number) for number in range(13)]
    similarity = (encoder.encode_text(texts) @ encoder.encode_video(clips).T).numpy()
    np.testing.assert_allclose(similarity, stored["out.t2i_emb"], atol=1e-5, rtol=1e-4)
    scores = rerank(encoder, similarity, texts=texts, video_batches=torch.split(clips, 2), top=top)
    for found, name in ((scores.text_to_video, "t2i_x"), (scores.video_to_text, "i2t_x")):
        np.testing.assert_allclose(found, stored[f"out.k{top}.{name}"], atol=1e-5, rtol=1e-4)
