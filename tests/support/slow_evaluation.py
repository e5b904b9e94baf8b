"""Evaluates colours slowly, to be killed: slow_evaluation.py FOLDER CACHE."""

import sys
import time
from pathlib import Path

from colour_encoder import ColourMatcher

from reelscan.retrieval.evaluate import evaluate


class SlowMatcher(ColourMatcher):
    """Takes its time for every pair."""

    def match(self, text_tokens, video_tokens):
        time.sleep(0.3)
        return super().match(text_tokens, video_tokens)


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    folder, cache = map(Path, sys.argv[1:])
    evaluate(
        SlowMatcher(),
        folder / "test.json",
        video_root=folder,
        rerank_top=3,
        cache_folder=cache,
        on_progress=lambda progress: say(f"{progress.stage} {progress.done}"),
    )
    say("finished")
