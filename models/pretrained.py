"""Models by name: from a folder, a weight file, or the Hugging Face Hub, and back to it.

A published weight file is converted once into a folder under the user's cache and used again from
there, without a network. `REELSCAN_CACHE` names another cache.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from os import PathLike
from pathlib import Path, PurePosixPath

import torch

from reelscan.models.conversion import ConversionOptions, convert_checkpoint
from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.golden_embedding import GOLDEN_FILE
from reelscan.models.model_directory import load_model, save_model
from reelscan.models.model_files import CONFIG_FILE, OWN_FILES, VOCABULARY_FILE, WEIGHTS_FILE

PUBLISHED_REPOSITORY = "OpenGVLab/VideoMamba"
PUBLISHED_FILE = "videomamba_m16_25M_f8_res224.pth"
CONVERSION_VERSION = 1
"""Raised when converting comes to give something else; earlier conversions are then made anew."""
_FOLDER_FILES = (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, GOLDEN_FILE)

Notice = Callable[[str], None]


class ModelNotFetchedError(OSError):
    """A model of the Hub is not on this machine and cannot be fetched."""


def cache_folder() -> Path:
    """Where converted models are kept: $REELSCAN_CACHE, or reelscan in the user's cache folder."""
    own = os.environ.get("REELSCAN_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelscan"


def from_pretrained(
    name: str | PathLike[str],
    *,
    file: str | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    token: str | None = None,
    device: torch.device | str = "cpu",
    options: ConversionOptions | None = None,
    on_notice: Notice | None = None,
) -> VideoTextEncoder:
    """An encoder ready to embed, from a local folder or a repository of the Hub ("OWNER/NAME").

    `file`: a weight file in it, converted on the way; None: the folder or repository is a model
    folder. Other arguments and errors: as in `find_pretrained` and `load_model`.
    """
    folder = find_pretrained(
        name,
        file=file,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        options=options,
        on_notice=on_notice,
    )
    return load_model(folder, device=device)


def find_pretrained(
    name: str | PathLike[str],
    *,
    file: str | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    token: str | None = None,
    options: ConversionOptions | None = None,
    on_notice: Notice | None = None,
) -> Path:
    """The model folder that a name means, fetched and converted if it is not there yet.

    `revision`: branch, tag or commit of the repository. `cache_dir`: where fetched and converted
    files are kept; None: the Hub's cache and `cache_folder()`. `token`: of the Hub; None: the one
    that is logged in, if any. `on_notice` is told what takes long. Raises ModelNotFetchedError,
    FileNotFoundError and ValueError, each with what to do.
    """
    local = Path(name)
    if local.is_dir():
        if file is None:
            return local
        return convert_cached(
            local / file, cache_dir=cache_dir, options=options, on_notice=on_notice
        )
    repository = _checked_repository(str(name))
    hub_cache = None if cache_dir is None else Path(cache_dir)
    if file is None:
        return _fetch_folder(repository, revision=revision, cache_dir=hub_cache, token=token)
    key = f"{repository.replace('/', '--')}--{PurePosixPath(file).stem}"
    if revision is not None:
        key += f"--{hashlib.sha256(revision.encode()).hexdigest()[:12]}"
    out = _converted(key, cache_dir, options)
    if not (out / CONFIG_FILE).is_file():
        by_hand = by_hand_path(repository, file, cache_dir=cache_dir)
        if by_hand.is_file() and revision is None:
            weights = by_hand
        else:
            _tell(on_notice, f"fetching {file} from https://huggingface.co/{repository}")
            weights = _fetch(
                repository, file, revision=revision, cache_dir=hub_cache, token=token, hint=by_hand
            )
        _convert(weights, out, options, on_notice)
    return out


def by_hand_path(
    repository: str, file: str, *, cache_dir: str | PathLike[str] | None = None
) -> Path:
    """Where a file of the Hub may be put that was fetched by hand."""
    return (
        _cache(cache_dir) / "downloads" / repository.replace("/", "--") / PurePosixPath(file).name
    )


def convert_cached(
    weights: str | PathLike[str],
    *,
    cache_dir: str | PathLike[str] | None = None,
    options: ConversionOptions | None = None,
    on_notice: Notice | None = None,
) -> Path:
    """The model folder of a weight file, converted once into the cache; told apart by content.

    Raises FileNotFoundError, and ValueError as `convert_checkpoint` does.
    """
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    with path.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    out = _converted(f"{path.stem}--{content[:16]}", cache_dir, options)
    if not (out / CONFIG_FILE).is_file():
        _convert(path, out, options, on_notice)
    return out


def save_pretrained(encoder: VideoTextEncoder, path: str | PathLike[str]) -> str:
    """Write an encoder as a model folder; returns its fingerprint. Errors as in `save_model`."""
    return save_model(encoder.model, encoder.tokenizer, encoder.preprocessing, path)


def push_to_hub(
    folder: str | PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    private: bool = False,
    message: str = "Add a reelscan model",
) -> str:
    """Upload a model folder to a repository of the Hub, made if need be; returns its address.

    The folder is loaded first, so that nothing damaged is published. Raises ValueError, and
    ModelNotFetchedError if the Hub refuses or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repository = _checked_repository(repository)
    path = Path(folder)
    load_model(path)
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=path,
            revision=revision,
            commit_message=message,
            allow_patterns=sorted(OWN_FILES),
        )
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise ModelNotFetchedError(
            f"{path} was not uploaded to {repository}: {_reason(error)}; check the network, and "
            "that the token may write there (`hf auth login`, or token=...)"
        ) from error
    return f"{api.endpoint}/{repository}"


def _fetch_folder(
    repository: str, *, revision: str | None, cache_dir: Path | None, token: str | None
) -> Path:
    """The files of a model folder, all of one commit."""
    first = _fetch(repository, CONFIG_FILE, revision=revision, cache_dir=cache_dir, token=token)
    for name in _FOLDER_FILES[1:]:
        # The cache keeps the files of a commit in a folder that is named after it.
        commit = first.parent.name
        _fetch(repository, name, revision=commit, cache_dir=cache_dir, token=token)
    return first.parent


def _fetch(
    repository: str,
    file: str,
    *,
    revision: str | None,
    cache_dir: Path | None,
    token: str | None,
    hint: Path | None = None,
) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    network_errors = (OSError, errors.HTTPError)  # type: ignore[attr-defined]
    try:
        try:
            # Asked once and apart: the download itself tries for half a minute without a network.
            url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
            huggingface_hub.get_hf_file_metadata(url, token=token)
        except errors.HfHubHTTPError:
            raise
        except network_errors:
            found = huggingface_hub.try_to_load_from_cache(
                repository, file, revision=revision, cache_dir=cache_dir
            )
            if not isinstance(found, str):
                raise
            return Path(found)
        return Path(
            huggingface_hub.hf_hub_download(
                repository,
                file,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFetchedError(
            f"https://huggingface.co/{repository}: there is no such repository"
            + (f" or revision {revision!r}" if revision else "")
            + ", or it is not open to you; check the name, or give a token (`hf auth login`)"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise ModelNotFetchedError(
            f"https://huggingface.co/{repository} has no file {file}; see its list of files, or "
            f"name a weight file in it"
        ) from error
    except network_errors as error:
        raise ModelNotFetchedError(_offline(repository, file, revision, error, hint)) from error


def _offline(
    repository: str, file: str, revision: str | None, error: Exception, by_hand: Path | None
) -> str:
    url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"
    text = (
        f"{file} of {repository} is not on this machine and cannot be fetched ({_reason(error)})."
    )
    if by_hand is None:
        return f"{text} Fetch the repository elsewhere, and give the path of its folder"
    return (
        f"{text} By hand: download {url} on a machine with a network, then put it here as "
        f"{by_hand}, or run `reelscan model convert {PurePosixPath(file).name} MODEL` and give "
        "--model MODEL. `--model demo` needs no network (`reelscan demo` makes it)"
    )


def _reason(error: Exception) -> str:
    """One line of an error that may tell a long story."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:200].rstrip(".")


def _checked_repository(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~")):
        raise FileNotFoundError(
            f"{name}: there is no such folder, and a repository of the Hub is OWNER/NAME"
        )
    return name


def _cache(cache_dir: str | PathLike[str] | None) -> Path:
    return cache_folder() if cache_dir is None else Path(cache_dir)


def _converted(
    key: str, cache_dir: str | PathLike[str] | None, options: ConversionOptions | None
) -> Path:
    if options is not None and options != ConversionOptions():
        plain = json.dumps(asdict(options), sort_keys=True, default=str)
        key += f"--{hashlib.sha256(plain.encode()).hexdigest()[:12]}"
    return _cache(cache_dir) / "models" / f"v{CONVERSION_VERSION}" / key


def _convert(
    weights: Path, out: Path, options: ConversionOptions | None, on_notice: Notice | None
) -> None:
    _tell(on_notice, f"converting {weights.name} once into {out}")
    convert_checkpoint(weights, out, options=options)


def _tell(on_notice: Notice | None, text: str) -> None:
    if on_notice is not None:
        on_notice(text)
