from dataclasses import replace
from pathlib import Path

import pytest

from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_settings import check_same_settings, plain_settings
from reelscan.pretrain.stages import video_text_masked


def config(folder: str = "/data") -> PretrainConfig:
    return video_text_masked(
        shards=(Path(folder) / "a.index.json", Path(folder) / "b.index.json"),
        teacher=Path(folder) / "clip.safetensors",
    )


def check(before: PretrainConfig, now: PretrainConfig, *, processes: int = 8) -> None:
    check_same_settings(
        plain_settings(before, processes=8), plain_settings(now, processes=processes)
    )


def test_moved_data_and_harmless_settings_may_change():
    before = config()
    now = config("/elsewhere")
    now = replace(
        now,
        data=replace(now.data, workers=3, shard_cache=Path("/cache"), shard_retries=9),
        run=replace(now.run, log_every=1, checkpoint_every=7, keep_checkpoints=9),
    )
    check(before, now)


def test_every_change_that_matters_is_listed():
    before = config()
    now = replace(
        before,
        data=replace(before.data, shards=before.data.shards[:1], batch_size=4),
        run=replace(before.run, seed=1),
    )
    with pytest.raises(ValueError, match="cannot go on") as raised:
        check(before, now)
    message = str(raised.value)
    assert "data.batch_size x processes was 1024 and is 32" in message
    assert "data.shards was ['a.index.json', 'b.index.json'] and is ['a.index.json']" in message
    assert "run.seed was 0 and is 1" in message


def test_another_number_of_processes_needs_another_batch_size():
    before = config()
    with pytest.raises(ValueError, match="batch_size x processes was 1024 and is 512"):
        check(before, before, processes=4)
    check(before, replace(before, data=replace(before.data, batch_size=256)), processes=4)


def test_addresses_lose_their_folders_too():
    before = config()
    moved = ("s3://bucket/x/a.index.json", "https://host/b.index.json")
    check(before, replace(before, data=replace(before.data, shards=moved)))


def test_runs_that_began_before_a_setting_was_there_go_on():
    before = plain_settings(config(), processes=8)
    del before["model"]["vision"]["scan_order"]
    del before["optimizer"]["vision_layer_decay"]
    check_same_settings(before, plain_settings(config(), processes=8))
    now = replace(config(), optimizer=replace(config().optimizer, vision_layer_decay=0.7))
    with pytest.raises(ValueError, match=r"vision_layer_decay was 1.0 and is 0.7"):
        check_same_settings(before, plain_settings(now, processes=8))
