"""The golden embedding: what a model gave for one clip and one sentence when it was saved.

Loading computes it again, so that a kernel, a device or a version that computes something else is
noticed before a collection is filled with it. It is cheap: the clip is read with a few patches a
frame, as in masked training, which uses every weight in a fraction of a whole clip's time.

Axes: B clips, T frames, S side of a frame in pixels, N patches, HW those of a frame.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_model import VisionModel

GOLDEN_FILE = "golden.json"
SENTENCE = "a person in a red coat walks to the left, stops, and then opens a door"
VISIBLE_PATCHES = 8
"""Of each frame; all if there are fewer."""
TOLERANCE_FLOAT32 = 0.01
"""Largest Euclidean distance of two vectors of length 1; float32 kernels differ by some 1e-5."""
TOLERANCE_BFLOAT16 = 0.2
"""The same in bfloat16, as on GPUs: a cosine of 0.98."""

GoldenVectors = dict[str, list[float]]


def golden_vectors(
    model: VideoTextModel | VisionModel,
    tokenizer: Tokenizer | None,
    preprocessing: Preprocessing,
    *,
    autocast: bool = False,
) -> GoldenVectors:
    """Vectors of the fixed clip and sentence, on the model's device, in float32 or bfloat16.

    Of a video-text model "video" (mean of the frames' vectors), "text" and "match" (probability);
    of a vision model "video" (class token, length 1) and "classes" (probabilities). The model
    keeps its mode. Raises ValueError if one is not finite.
    """
    device = next(model.parameters()).device
    vision = model.config if isinstance(model, VisionModel) else model.config.vision
    training, threads = model.training, torch.get_num_threads()
    model.eval()
    # Such short sequences gain little from threads, and lose much where the machine is busy.
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            clips = preprocessing.normalise(golden_clip(preprocessing).to(device))
            mask = golden_mask(vision).to(device)
            if isinstance(model, VisionModel):
                found = _vision_vectors(model, clips, mask)
            else:
                assert tokenizer is not None, "a model of texts has a tokenizer"
                found = _video_text_vectors(model, tokenizer, clips, mask, preprocessing)
    finally:
        model.train(training)
        torch.set_num_threads(threads)
    vectors = {name: tensor.flatten().float().cpu() for name, tensor in found.items()}
    broken = [name for name, vector in vectors.items() if not bool(vector.isfinite().all())]
    if broken:
        raise ValueError(
            f"the model's {' and '.join(broken)} of a test clip are not finite numbers; its "
            "weights are damaged or diverged in training: take another checkpoint"
        )
    return {name: [round(x, 6) for x in vector.tolist()] for name, vector in vectors.items()}


def _vision_vectors(model: VisionModel, clips: Tensor, mask: Tensor) -> dict[str, Tensor]:
    features = model.features(clips, mask=mask)
    found = {"video": F.normalize(features.float(), dim=-1)}
    if model.classes:
        found["classes"] = model.classify(features).float().softmax(dim=-1)
    return found


def _video_text_vectors(
    model: VideoTextModel,
    tokenizer: Tokenizer,
    clips: Tensor,
    mask: Tensor,
    preprocessing: Preprocessing,
) -> dict[str, Tensor]:
    vision = model.encode_vision(clips, mask)
    batch = tokenizer([SENTENCE], max_tokens=preprocessing.max_text_tokens, pad_to_longest=True)
    ids, attention = batch.input_ids.to(clips.device), batch.attention_mask.to(clips.device)
    hidden = model.encode_text(ids, attention)
    found = {
        "video": model.project_vision(vision.pooled).mean(1),
        "text": model.project_text(hidden, attention),
    }
    if model.config.matching_trained:
        logits = model.match(hidden, attention, vision.tokens)
        found["match"] = logits.float().softmax(dim=-1)[:, 1]
    return found


def golden_clip(preprocessing: Preprocessing) -> Tensor:
    """uint8 [1, T, 3, S, S]: waves of several lengths that travel, made of whole numbers alone."""
    time, channel, row, column = torch.meshgrid(
        *(
            torch.arange(n)
            for n in (preprocessing.frames, 3, preprocessing.size, preprocessing.size)
        ),
        indexing="ij",
    )
    wave = row * (3 + channel) + column * (5 - channel) + time * 17
    ripple = (row * column * (1 + time)).div(8, rounding_mode="floor")
    return ((wave + ripple) % 256).to(torch.uint8).unsqueeze(0)


def golden_mask(config: VideoMambaConfig) -> Tensor:
    """bool [1, 1 + N], False at the class token and a few patches spread over each frame."""
    frames, rows, columns = config.grid
    patches = rows * columns
    visible = min(VISIBLE_PATCHES, patches)
    mask = torch.ones(frames, patches, dtype=torch.bool)
    for frame in range(frames):
        places = (torch.arange(visible) * patches // visible + frame) % patches
        mask[frame, places] = False
    return torch.cat([torch.zeros(1, dtype=torch.bool), mask.flatten()]).unsqueeze(0)


def write_golden(folder: Path, vectors: GoldenVectors, *, fingerprint: str) -> None:
    """Write golden.json, a line a vector."""
    parts = {"fingerprint": fingerprint, "sentence": SENTENCE, **vectors}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items()]
    (folder / GOLDEN_FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_golden(folder: Path, *, fingerprint: str) -> GoldenVectors:
    """Read golden.json. Raises ValueError if it is missing, damaged or of another model."""
    path = folder / GOLDEN_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        vectors = {
            name: [float(x) for x in value]
            for name, value in written.items()
            if name not in ("fingerprint", "sentence")
        }
        belongs = written["fingerprint"] == fingerprint
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); copy the whole model folder again"
        ) from error
    if not belongs or "video" not in vectors:
        raise ValueError(f"{path} belongs to another model; copy the whole model folder again")
    return vectors


def check_golden(
    found: Mapping[str, list[float]],
    stored: Mapping[str, list[float]],
    *,
    autocast: bool,
    where: str,
) -> None:
    """Raise ValueError if a vector is further from the stored one than rounding explains."""
    tolerance = TOLERANCE_BFLOAT16 if autocast else TOLERANCE_FLOAT32
    for name, vector in stored.items():
        if len(found.get(name, ())) != len(vector):
            raise ValueError(
                f"{where}: its golden embedding has a {name} of {len(vector)} numbers, the model "
                f"gives {len(found.get(name, ()))}; copy the whole model folder again"
            )
        distance = torch.dist(torch.tensor(found[name]), torch.tensor(vector)).item()
        if not distance <= tolerance:
            raise ValueError(
                f"{where}: the {name} vector of the test clip is {distance:.3g} away from the one "
                f"stored with the model ({tolerance} is allowed here): this device, driver or "
                "version computes something else. Try --device cpu and `reelscan doctor`; vectors "
                "made like this would not fit any others"
            )
