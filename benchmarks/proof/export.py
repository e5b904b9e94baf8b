"""A snapshot of a run as a model folder, which `reelscan` loads.

python -m benchmarks.proof.export --snapshot OUT/snapshot --to MODEL
"""

import argparse
from pathlib import Path

from benchmarks.proof.clips import MAX_TOKENS
from benchmarks.proof.recipe import SIZES, Recipe
from benchmarks.proof.snapshot import VOCABULARY_FILE, load_weights, read_state

from reelscan.models.model_directory import save_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel

FRAMES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--snapshot", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    print(f"{given.to}: {export(given.snapshot, given.to)}")


def export(snapshot: Path, to: Path) -> str:
    """The fingerprint of the model folder. Raises ValueError for arms that are no VideoMamba."""
    plain = read_state(snapshot)["recipe"]
    assert isinstance(plain, dict)
    recipe = Recipe(**plain)
    if recipe.arm != "videomamba":
        raise ValueError(f"{snapshot} is of the arm {recipe.arm!r}; only videomamba is a model")
    tokenizer = Tokenizer.from_file(snapshot / VOCABULARY_FILE)
    model = VideoTextModel(
        recipe.model(vocab_size=tokenizer.vocab_size, frames=FRAMES, max_text_tokens=MAX_TOKENS)
    )
    load_weights(snapshot, model)
    preprocessing = Preprocessing(
        frames=FRAMES, size=SIZES[recipe.size].image_size, max_text_tokens=MAX_TOKENS
    )
    return save_model(model.eval(), tokenizer, preprocessing, to)


if __name__ == "__main__":
    main()
