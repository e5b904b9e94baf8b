"""retrieval_metrics*: recalls of stored scores; the published ones are rounded to two digits.

"txt" is video to text, "img" text to video. Ties are left to an unstable sort there, so a stored
recall lies between the two bounds; ours is the pessimistic one.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from golden_replay.case import Case, Score
from golden_replay.settings import Settings
from reelscan.retrieval.metrics import ranks, recall_at_k

Scores = NDArray[np.float32]
Targets = Sequence[int | set[int]]
DEPTHS = (1, 5, 10)
ROUNDING = 0.0051
"""Of a published recall, in percent."""


def replay(case: Case) -> None:
    names = [key for key in case.settings if "." not in key and not key.startswith("_")]
    case.settings.irrelevant(reason="versions and a description", keys=("_meta",))
    for name in names:
        video_to_text = _scores(case, name)
        given = case.get(f"in.{name}.t2i")
        text_to_video = video_to_text.T if given is None else given.cpu().numpy()
        of_video, of_text = _targets(name, video_to_text.shape)
        directions = {"i2t": (video_to_text, of_video), "t2i": (text_to_video, of_text)}
        for direction, (scores, targets) in directions.items():
            _bounds(case, f"{name}.rank_bounds.{direction}", scores, targets)
        compare_published(case.score, name, case.settings[name], *directions.values())


def compare_published(
    score: Score,
    name: str,
    stored: Settings,
    video_to_text: tuple[Scores, Targets],
    text_to_video: tuple[Scores, Targets],
) -> None:
    """Published recalls and their means, each between the bounds that ties leave."""
    low, high = {}, {}
    for prefix, (scores, targets) in (("txt", video_to_text), ("img", text_to_video)):
        for bound, optimistic in ((low, False), (high, True)):
            recalls = _recalls(scores, targets, optimistic=optimistic)
            bound.update({f"{prefix}_r{k}": recall for k, recall in recalls.items()})
            bound[f"{prefix}_r_mean"] = sum(recalls.values()) / len(DEPTHS)
    for bound in (low, high):
        bound["r_mean"] = (bound["txt_r_mean"] + bound["img_r_mean"]) / 2
    for key in stored:
        value = stored[key]
        assert key in low, f"{name}.{key} is no known metric"
        inside = low[key] - ROUNDING <= value <= high[key] + ROUNDING
        score.fact(f"config.{name}.{key}", value if inside else (low[key], high[key]), value)


def _scores(case: Case, name: str) -> Scores:
    """As stored, or made of another case's as the file's description says."""
    if f"in.{name}.i2t" in case:
        return case[f"in.{name}.i2t"].cpu().numpy()
    if name.endswith("_ties"):
        return np.round(_scores(case, name.removesuffix("_ties")) * 4) / 4
    told = re.fullmatch(r"multivis_(\d+)x(\d+)", name)
    assert told, f"{case.name} holds no scores of {name}"
    return _scores(case, f"multicap_{told[2]}x{told[1]}").T


def _targets(name: str, shape: tuple[int, int]) -> tuple[Targets, Targets]:
    """Of each video its texts, and of each text its videos."""
    videos, texts = shape
    if videos == texts:
        return list(range(videos)), list(range(texts))
    assert name.startswith(("multicap", "multivis")), f"{name}: which text belongs to which video?"
    few, many = min(shape), max(shape)
    assert many % few == 0, f"{name}: {many} do not divide over {few}"
    share = many // few
    one: Targets = [index // share for index in range(many)]
    several: Targets = [set(range(share * index, share * (index + 1))) for index in range(few)]
    return (several, one) if videos < texts else (one, several)


def _recalls(scores: Scores, targets: Targets, *, optimistic: bool) -> dict[int, float]:
    if not optimistic:
        found = ranks(scores, targets)
    else:
        found = np.array(
            [
                1 + int((row > row[list(own) if isinstance(own, set) else [own]].max()).sum())
                for row, own in zip(scores, targets, strict=True)
            ]
        )
    return {k: recall_at_k(found, k) for k in DEPTHS}


def _bounds(case: Case, key: str, scores: Scores, targets: Targets) -> None:
    if key not in case.settings:
        return
    stored: Settings = case.settings[key]
    for name, optimistic in (("pessimistic_R", False), ("optimistic_R", True)):
        recalls = _recalls(scores, targets, optimistic=optimistic)
        for k, value in stored[name].plain().items():
            found = torch.tensor(round(recalls[int(k)], 2))
            case.score.add(f"config.{key}.{name}.{k}", found, torch.tensor(value))
    stored.irrelevant(reason="whether the bounds differ", keys=("ties",))
