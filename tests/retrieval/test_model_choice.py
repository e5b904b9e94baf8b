"""What `--model` means, and what a person reads when it means nothing."""

import pytest

from reelscan.retrieval.model_choice import choose_model


def test_demo_is_what_the_demo_left_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run `reelscan demo` here first"):
        choose_model("demo")
    model = tmp_path / "demo-run" / "pretrain" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert choose_model("demo").resolve() == model


def test_a_mistyped_path_is_named_with_what_can_be_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such.*hub:OWNER/NAME/FILE"):
        choose_model(tmp_path / "nowhere")


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert choose_model(str(tmp_path)) == tmp_path
