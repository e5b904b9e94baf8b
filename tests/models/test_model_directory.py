"""A model folder comes back as it was saved, or says in one line why not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from reelscan.models.atomic_directory import previous_folder
from reelscan.models.bert import BertConfig
from reelscan.models.model_directory import (
    FORMAT_VERSION,
    fingerprint_of,
    inspect_model,
    load_model,
    save_model,
)
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s"]
PREPROCESSING = Preprocessing(frames=2, size=16, max_text_tokens=8)
CONFIG = VideoTextConfig(
    vision=VideoMambaConfig(image_size=16, patch_size=8, frames=2, depth=2, width=16),
    text=BertConfig(
        vocab_size=9,
        hidden_size=12,
        num_hidden_layers=3,
        fusion_layer=2,
        encoder_width=16,
        num_attention_heads=3,
        intermediate_size=24,
        max_position_embeddings=8,
    ),
    embed_dim=6,
)
FRAMES = torch.arange(2 * 2 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(2, 2, 3, 16, 16)
TEXTS = ["a red ball", "balls"]


def build(seed: int = 0) -> VideoTextModel:
    torch.manual_seed(seed)
    return VideoTextModel(CONFIG)


@pytest.fixture
def folder(tmp_path):
    save_model(build(), Tokenizer(WORDS), PREPROCESSING, tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_saved_model_comes_back_with_equal_vectors(tmp_path):
    model = build()
    fingerprint = save_model(model, Tokenizer(WORDS), PREPROCESSING, tmp_path / "model")
    encoder, again = (load_model(tmp_path / "model") for _ in range(2))
    assert encoder.fingerprint == fingerprint
    assert encoder.preprocessing == PREPROCESSING
    assert encoder.model.config == CONFIG
    assert encoder.tokenizer.vocabulary == tuple(WORDS)
    for name, tensor in model.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], tensor), name
    assert torch.equal(encoder.encode_video(FRAMES), again.encode_video(FRAMES))
    assert torch.equal(encoder.encode_text(TEXTS), again.encode_text(TEXTS))
    tokens = encoder.text_tokens(TEXTS), encoder.video_tokens(FRAMES)
    assert torch.equal(encoder.match(*tokens), again.match(*tokens))


def test_saving_what_was_loaded_keeps_the_fingerprint(folder, tmp_path):
    encoder = load_model(folder)
    parts = encoder.model, encoder.tokenizer, encoder.preprocessing
    assert save_model(*parts, tmp_path / "copy") == encoder.fingerprint
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes(), name


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(folder)
    assert torch.equal(torch.rand(3), expected)


def test_the_fingerprint_covers_everything_that_decides_the_vectors():
    def fingerprint(model=None, words=WORDS, preprocessing=PREPROCESSING):
        return fingerprint_of(
            model or build(), tokenizer=Tokenizer(words), preprocessing=preprocessing
        )

    one_weight = build()
    with torch.no_grad():
        one_weight.text_proj.bias[3] += 1e-6
    found = [
        fingerprint(),
        fingerprint(one_weight),
        fingerprint(words=[*WORDS[:-1], "##z"]),
        fingerprint(preprocessing=Preprocessing(frames=2, size=16, max_text_tokens=7)),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint() == found[0]
    assert all(len(value) == 64 for value in found)


def test_tied_weights_are_stored_once(folder):
    stored = load_file(folder / "model.safetensors")
    assert "text_encoder.bert.embeddings.word_embeddings.weight" in stored
    assert "text_encoder.cls.predictions.decoder.weight" not in stored


def test_every_file_can_be_read_by_the_same_people(folder):
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1


def test_inspecting_tells_sizes_without_loading(folder):
    summary = inspect_model(folder)
    model = build()
    assert summary.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert summary.weights_bytes == (folder / "model.safetensors").stat().st_size
    assert (summary.frames, summary.image_size, summary.embed_dim) == (2, 16, 6)
    assert summary.max_text_tokens == 8
    assert summary.config == CONFIG
    assert summary.fingerprint == load_model(folder).fingerprint


def test_a_model_folder_is_replaced(folder, tmp_path):
    before = load_model(folder).fingerprint
    after = save_model(build(seed=1), Tokenizer(WORDS), PREPROCESSING, folder)
    assert load_model(folder).fingerprint == after != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_model_that_was_there(folder, tmp_path, monkeypatch):
    def full_disk(self, path):
        raise OSError("no space left on device")

    before = load_model(folder).fingerprint
    monkeypatch.setattr(Tokenizer, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(build(seed=1), Tokenizer(WORDS), PREPROCESSING, folder)
    assert load_model(folder).fingerprint == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["other folder", "model of another library", "notes", "file"])
def test_nothing_else_is_replaced(folder, tmp_path, kind):
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("mine")
    elif kind == "notes":
        shutil.copytree(folder, path)
        (path / "notes.txt").write_text("mine")
    else:
        path.mkdir()
        name = "diary.txt" if kind == "other folder" else "config.json"
        (path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match=r"precious.*choose another path"):
        save_model(build(), Tokenizer(WORDS), PREPROCESSING, path)
    assert path.read_text() == "mine" if kind == "file" else any(path.iterdir())


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "model").mkdir()
    save_model(build(), Tokenizer(WORDS), PREPROCESSING, tmp_path / "model")
    load_model(tmp_path / "model")


def test_parts_that_do_not_fit_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"preprocessing.size is 224"):
        save_model(build(), Tokenizer(WORDS), Preprocessing(frames=2), tmp_path / "model")
    assert not any(tmp_path.iterdir())


def other_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["text_proj.bias"][2] += 1e-3
    save_file(tensors, folder / "model.safetensors")


def flipped_bit(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def other_word(folder):
    (folder / "vocab.txt").write_text("\n".join([*WORDS[:-1], "##z"]) + "\n")


def other_mean(folder):
    edit_config(folder, lambda config: config["preprocessing"].update(mean=[0.5, 0.5, 0.5]))


@pytest.mark.parametrize("tamper", [other_weight, flipped_bit, other_word, other_mean])
def test_altered_files_are_refused(folder, tamper):
    tamper(folder)
    with pytest.raises(ValueError, match=r"refused, its files are not as they were saved"):
        load_model(folder)


by_loading_and_inspecting = pytest.mark.parametrize("read", [load_model, inspect_model])


@by_loading_and_inspecting
def test_a_missing_folder(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere: no such model folder"):
        read(tmp_path / "nowhere")


@by_loading_and_inspecting
def test_a_folder_lost_in_an_interrupted_save(folder, read):
    folder.rename(previous_folder(folder))
    with pytest.raises(FileNotFoundError, match=r"earlier one at .*\.model\.previous"):
        read(folder)


@by_loading_and_inspecting
@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_a_missing_file(folder, read, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"no {name} in this model folder"):
        read(folder)


@by_loading_and_inspecting
@pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"model_type": "bert"}', "\udcff"])
def test_a_config_of_something_else(folder, read, text):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match="not a model folder"):
        read(folder)


@by_loading_and_inspecting
def test_a_file_instead_of_a_folder(tmp_path, read):
    (tmp_path / "weights.pth").write_text("")
    with pytest.raises(ValueError, match=r"weights\.pth: not a model folder"):
        read(tmp_path / "weights.pth")


@by_loading_and_inspecting
def test_a_newer_version(folder, read):
    edit_config(folder, lambda config: config.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ValueError, match=r"format_version is 2.*upgrade"):
        read(folder)


@by_loading_and_inspecting
def test_an_unknown_field(folder, read):
    edit_config(folder, lambda config: config["model"]["vision"].update(windows=3))
    with pytest.raises(ValueError, match=r"config.json.model.vision has unknown fields: windows"):
        read(folder)


@by_loading_and_inspecting
def test_an_impossible_value(folder, read):
    edit_config(folder, lambda config: config["model"]["vision"].update(depth=-1))
    with pytest.raises(ValueError, match=r"model.vision: depth is -1"):
        read(folder)


@by_loading_and_inspecting
def test_a_cut_weight_file(folder, read):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read(folder)
