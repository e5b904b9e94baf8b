"""What `--model` means, and what a person reads when it means nothing."""

import os
import subprocess
import sys

import pytest
import torch
from fake_hub import running_hub
from published_layouts import random_state

from reelscan.models.conversion import convert_checkpoint
from reelscan.models.pretrained import PUBLISHED_FILE, PUBLISHED_REPOSITORY
from reelscan.retrieval.model_choice import choose_encoder, choose_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REELSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)


def run_index(tmp_path, *words, endpoint):
    """`reelscan index`, in a process of its own, for HF_ENDPOINT is read once."""
    (tmp_path / "videos").mkdir(exist_ok=True)
    command = "from reelscan.retrieval.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "index", "videos", "--to", "c", *words],
        cwd=tmp_path,
        env=os.environ | {"HF_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
    )


def test_demo_is_what_the_demo_left_in_this_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `reelscan demo` here first"):
        choose_model("demo")
    model = tmp_path / "demo-run" / "pretrain" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert choose_model("demo").resolve() == model


def test_a_mistyped_path_is_named_with_what_can_be_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such.*hub:OWNER/NAME/FILE"):
        choose_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="name a repository"):
        choose_model("hub:OpenGVLab")


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert choose_model(str(tmp_path)) == tmp_path


def test_a_weight_file_that_embeds_nothing_is_refused_with_a_next_step(tmp_path):
    torch.save(random_state("sm_videomamba_tiny", small=True), "tiny.pth")
    with pytest.raises(ValueError, match=r"cannot embed texts.*reelscan pretrain"):
        choose_encoder("tiny.pth", device="cpu")


def test_without_model_and_network_one_line_tells_the_way(tmp_path):
    outcome = run_index(tmp_path, endpoint="http://127.0.0.1:9")
    assert outcome.returncode == 1
    last = outcome.stderr.strip().splitlines()[-1]
    assert f"{PUBLISHED_REPOSITORY}/resolve/main/{PUBLISHED_FILE}" in last
    assert str(tmp_path / "cache" / "downloads" / "OpenGVLab--VideoMamba" / PUBLISHED_FILE) in last
    assert "--model demo" in last
    assert "Traceback" not in outcome.stderr


def test_without_model_the_published_file_is_asked_for(tmp_path):
    """A file of that name with too few layers: fetched, read, and refused for its vocabulary."""
    torch.save(random_state("UMT_VIDEOMAMBA_middle_retrieval", small=True), "small.pth")
    with running_hub() as hub:
        hub.add(PUBLISHED_REPOSITORY, {PUBLISHED_FILE: tmp_path / "small.pth"})
        outcome = run_index(tmp_path, endpoint=hub.url)
    assert ("GET", f"/{PUBLISHED_REPOSITORY}/resolve/main/{PUBLISHED_FILE}", None) in hub.requests
    assert "these weights have 60 tokens" in outcome.stderr
    assert f"converting {PUBLISHED_FILE} once into" in outcome.stderr


def test_a_model_folder_of_the_hub_is_used_by_name(tmp_path):
    torch.save(random_state("sm_videomamba_tiny", small=True), "tiny.pth")
    convert_checkpoint("tiny.pth", tmp_path / "tiny")
    with running_hub() as hub:
        names = ("config.json", "model.safetensors", "golden.json")
        files = {name: tmp_path / "tiny" / name for name in names} | {"vocab.txt": b"x\n"}
        hub.add("someone/tiny", files)
        outcome = run_index(tmp_path, "--model", "hub:someone/tiny", endpoint=hub.url)
    assert "cannot embed texts" in outcome.stderr
