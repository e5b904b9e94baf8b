"""Where indexes and shards lie: local paths, and addresses of http, s3 and gs servers (fsspec).

Paths are opened as they are: `#`, `?`, `*` and braces in them mean nothing special. Nothing given
here ever runs a command.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

DRIVERS = {"http": "http", "https": "http", "s3": "s3", "gs": "gs"}
"""Schemes and the extra that installs what they need."""
CONNECT_SECONDS = 30
SILENCE_SECONDS = 60
_BLOCK_BYTES = 8 << 20
# A forked process must never collect its copies of these: closing their connections would take them
# out of the event loop that it shares with its parent, which would then wait in vain.
_kept: list[object] = []
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(::.*)?://")


def normal_address(given: str | os.PathLike[str]) -> str:
    """A path, or an address of one of `DRIVERS`. Raises ValueError that says what is allowed."""
    if not isinstance(given, str):
        return os.fspath(given)
    if given.startswith("pipe:"):
        raise ValueError(f"{given!r} would run a command, and none is run: fetch the shard first")
    found = _SCHEME.match(given)
    if found is None:
        return given
    scheme = found[1].lower()
    if scheme == "file":
        host, _, _ = given.partition("://")[2].partition("/")
        if host in ("", "localhost"):
            return url2pathname(given.partition("://")[2].removeprefix("localhost"))
    elif scheme in DRIVERS and not found[2]:
        return scheme + given[len(scheme) :]
    raise ValueError(
        f"{given!r} cannot be read: give a local path or an address that starts with "
        f"file:///, {', '.join(f'{known}://' for known in DRIVERS)}"
    )


def is_remote(address: str) -> bool:
    """Whether a normal address needs a driver."""
    return _SCHEME.match(address) is not None


def base_name(address: str) -> str:
    """The last part of an address."""
    return Path(urlsplit(address).path if is_remote(address) else address).name


def beside(address: str, file: str) -> str:
    """The address of another file in the same folder."""
    if not is_remote(address):
        return os.fspath(Path(address).parent / file)
    parts = urlsplit(address)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{file}").geturl()


def check_driver(address: str) -> None:
    """Raises ValueError that names the remedy if a remote address cannot be opened here."""
    if is_remote(address):
        _file_system(address)


def read_whole(address: str) -> bytes:
    """All bytes. Raises OSError, also for what drivers raise of their own."""
    if not is_remote(address):
        return Path(address).read_bytes()
    try:
        return bytes(_file_system(address).cat_file(address))
    except Exception as error:
        raise _as_os_error(error, address) from error


def read_range(address: str, *, start: int, size: int) -> bytes:
    """Some bytes of a remote file. Raises OSError, also if the server gives another part."""
    try:
        data = bytes(_file_system(address).cat_file(address, start=start, end=start + size))
    except Exception as error:
        raise _as_os_error(error, address) from error
    if len(data) != size:
        raise OSError(
            f"{address} gave {len(data)} bytes where {size} were asked for: the file is cut, or "
            "the server does not serve parts of files (then give data.shard_cache)"
        )
    return data


def download(address: str, file: BinaryIO) -> None:
    """Writes all bytes of a remote file. Raises OSError."""
    try:
        with _file_system(address).open(address, "rb", block_size=_BLOCK_BYTES) as stream:
            shutil.copyfileobj(stream, file, _BLOCK_BYTES)
    except Exception as error:
        raise _as_os_error(error, address) from error


def _file_system(address: str) -> Any:
    # Asked for anew each time: fsspec keeps one for each process, and none survives a fork.
    scheme = urlsplit(address).scheme
    try:
        import fsspec

        options = {}
        if DRIVERS[scheme] == "http":
            import aiohttp

            # The usual limit of five minutes for a whole answer would cut large shards.
            patience = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
            )
            options = {"client_kwargs": {"timeout": patience}}
        system = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise ValueError(
            f"{address} needs a driver that is not installed ({error}): "
            f"pip install 'reelscan[{DRIVERS[scheme]}]', or copy the shards to a local folder"
        ) from error
    if not any(each is system for each in _kept):
        _kept.append(system)
    return system


def _as_os_error(error: Exception, address: str) -> OSError | ValueError:
    if isinstance(error, ValueError | OSError):
        return error
    return OSError(f"{address}: {type(error).__name__}: {error}")
