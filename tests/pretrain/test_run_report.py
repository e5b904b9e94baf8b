import base64
import json
import re

import cv2
import numpy as np

from reelscan.pretrain.run_log import METRICS_FILE
from reelscan.pretrain.run_report import write_report


def test_the_report_shows_curves_figures_and_settings_in_one_file(tmp_path):
    rows = [
        {"step": 0, "total": 2.0, "alignment": 0.0, "clips_per_second": 5.0},
        {"step": 1, "skipped_steps": 1},
        {"step": 2, "total": 1.25, "clips_per_second": 7.0, "held_out_recall_at_1": 31.5},
    ]
    metrics = tmp_path / METRICS_FILE
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(
        metrics,
        tmp_path / "report.html",
        title="films <2>",
        facts={"steps": "3 of 3"},
        settings={"run": {"seed": 7}, "data": {"shards": ["a&b.index.json"]}},
    )
    text = (tmp_path / "report.html").read_text()
    assert "films &lt;2&gt;" in text and "3 of 3" in text
    assert "run.seed<td>7" in text and "a&amp;b.index.json" in text
    assert "held out recall at 1<td>31.5" in text and "total<td>1.25" in text
    pictures = re.findall(r"base64,([^\"]+)", text)
    # Losses, clips a second, skipped steps, held-out videos.
    assert len(pictures) == 4
    for picture in pictures:
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (320, 900, 3) and decoded.std() > 5
    assert "http" not in text
