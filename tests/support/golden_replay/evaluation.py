"""eval_pipeline_*: from videos and texts to embedding scores, reranked scores and recalls."""

import re

import torch
from torch import Tensor

from golden_replay.case import Case
from golden_replay.metrics import compare_published
from golden_replay.settings import Settings
from golden_replay.video_text import build_model, check_fixed
from reelscan.models.encoder import TextTokens
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.video_text import VideoTextModel
from reelscan.models.videomamba import VisionOutput
from reelscan.retrieval.rerank import rerank


def replay(case: Case) -> None:
    keep_temporal = _check_settings(case.settings)
    model = build_model(case)
    encoder = StoredInputs(case, model, keep_temporal=keep_temporal)
    videos, texts = len(case["in.videos"]), len(case["in.input_ids"])
    clips = torch.arange(videos).view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)
    with torch.no_grad():
        vision = encoder.vision(clips)
        names = [str(number) for number in range(texts)]
        similarity = (encoder.encode_text(names) @ encoder.encode_video(clips).T).cpu()
        case.compare("out.vision_embeds", vision.tokens)
        case.compare("out.pooled_vision", vision.pooled)
        case.compare("out.t2i_emb", similarity)
        case.compare("out.i2t_emb", similarity.T)
        scores = {"emb": (similarity, similarity.T)}
        for name in case.names("out.k"):
            told = re.fullmatch(r"out\.k(\d+)\.(t2i_x|i2t_x)", name)
            assert told, f"{name} is no known output"
            if f"k{told[1]}" not in scores:
                scores[f"k{told[1]}"] = _reranked(encoder, similarity, names, clips, int(told[1]))
            case.compare(name, scores[f"k{told[1]}"][told[2] == "i2t_x"])
    _recalls(case, scores)


class StoredInputs:
    """A `MatchingEncoder` of the stored videos (a clip's pixels are its number) and texts."""

    fingerprint = "stored"
    preprocessing = Preprocessing(frames=1, size=1)
    can_match = True

    def __init__(self, case: Case, model: VideoTextModel, *, keep_temporal: bool) -> None:
        self.case = case
        self.model = model
        self.keep_temporal = keep_temporal
        self.embed_dim = model.config.embed_dim

    def vision(self, numbers: Tensor) -> VisionOutput:
        clips = self.case["in.videos"][numbers[:, 0, 0, 0, 0].long().to(self.case.device)]
        return self.model.encode_vision(clips, keep_temporal=self.keep_temporal)

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        return self.model.project_vision(self.vision(frames_uint8).pooled).mean(dim=1)

    def encode_text(self, texts: list[str]) -> Tensor:
        return self.model.embed_text(*self._texts(texts))

    def video_tokens(self, frames_uint8: Tensor) -> Tensor:
        return self.vision(frames_uint8).tokens.cpu()

    def text_tokens(self, texts: list[str]) -> TextTokens:
        ids, mask = self._texts(texts)
        hidden = self.model.encode_text(ids, mask)
        return TextTokens(hidden=hidden.cpu(), attention_mask=mask.cpu())

    def match(self, text_tokens: TextTokens, video_tokens: Tensor) -> Tensor:
        device = self.case.device
        hidden, mask = text_tokens.hidden.to(device), text_tokens.attention_mask.to(device)
        return self.model.match(hidden, mask, video_tokens.to(device))[:, 1].cpu()

    def _texts(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        rows = [int(text) for text in texts]
        return self.case["in.input_ids"][rows], self.case["in.attention_mask"][rows]


def _check_settings(settings: Settings) -> bool:
    """Whether vectors are those of frames; raises for ways of evaluating that are not replayed."""
    check_fixed(settings)
    vision: Settings = settings["model"]["vision_encoder"]
    frames = vision["num_frames"]
    evaluation: Settings = settings["evaluation"]
    evaluation.must_be(eval_frame_ensemble="concat")
    evaluation.irrelevant(
        reason="tensors' names tell the shortlists; where features wait",
        keys=("k_test", "eval_offload"),
    )
    settings["inputs"]["video_input"].must_be(num_frames=frames)
    settings["video_input"].must_be(num_frames=frames)
    settings["inputs"].irrelevant(reason="the texts are stored as ids", keys=("max_txt_l",))
    settings.irrelevant(reason="of training", keys=("criterion",))
    vision.irrelevant(
        reason="of the teacher and of masks, which an evaluation has none of",
        keys=(
            *("clip_norm_type", "clip_teacher", "clip_img_size", "clip_return_interval"),
            *("video_mask_type", "video_mask_ratio", "image_mask_type", "image_mask_ratio"),
        ),
    )
    keep: bool = vision["keep_temporal"]
    return keep


def _reranked(
    encoder: StoredInputs, similarity: Tensor, texts: list[str], clips: Tensor, top: int
) -> tuple[Tensor, Tensor]:
    scores = rerank(
        encoder, similarity.numpy(), texts=texts, video_batches=torch.split(clips, 2), top=top
    )
    return torch.from_numpy(scores.text_to_video), torch.from_numpy(scores.video_to_text)


def _recalls(case: Case, scores: dict[str, tuple[Tensor, Tensor]]) -> None:
    videos: Settings = case.settings["img2txt"]
    texts: Settings = case.settings["txt2img"]
    of_video = [set(videos[str(number)]) for number in range(len(list(videos)))]
    of_text = [texts[str(number)] for number in range(len(list(texts)))]
    stored: Settings = case.settings["metrics"]
    for name in stored:
        text_to_video, video_to_text = scores[name]
        compare_published(
            case.score,
            f"metrics.{name}",
            stored[name],
            (video_to_text.numpy(), of_video),
            (text_to_video.numpy(), of_text),
        )
