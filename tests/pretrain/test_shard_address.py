import gc
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_server import LoopbackServer, serving

from reelscan.pretrain.shard_address import (
    SILENCE_SECONDS,
    base_name,
    beside,
    check_driver,
    normal_address,
    read_range,
    read_whole,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    (tmp_path / "a.tar").write_bytes(bytes(range(200)))
    with serving(tmp_path) as found:
        yield found


def test_paths_and_addresses(tmp_path: Path) -> None:
    for given in (tmp_path / "a b#?{0..1}.tar", "x::y.tar", "http:x.tar", "c:/x.tar", "a/../b"):
        assert normal_address(given) == str(given)
    assert normal_address((tmp_path / "a b#.tar").as_uri()) == str(tmp_path / "a b#.tar")
    assert normal_address("file://localhost/x%20y") == "/x y"
    for given in ("http://x/a.tar", "https://x/a.tar", "s3://x/a.tar", "gs://x/a.tar"):
        assert normal_address(given) == given
    assert normal_address("S3://Bucket/a") == "s3://Bucket/a"


@pytest.mark.parametrize(
    "given",
    [
        "pipe:cat x",
        "hf://x/a.tar",
        "file://elsewhere/a.tar",
        "simplecache::http://x/a.tar",
        "zip://a.tar::http://x/b.zip",
        "ftp://x/a",
        "ssh://x/a",
    ],
)
def test_what_is_not_read(given: str) -> None:
    with pytest.raises(ValueError, match=r"give a local path or an address|fetch the shard first"):
        normal_address(given)


def test_files_beside_others() -> None:
    assert beside("/a/b/x.index.json", "y.tar") == "/a/b/y.tar"
    assert beside("x.index.json", "y.tar") == "y.tar"
    assert beside("https://h:1/a/x.index.json?key=1", "y.tar") == "https://h:1/a/y.tar?key=1"
    assert beside("s3://bucket/x.index.json", "y.tar") == "s3://bucket/y.tar"
    assert base_name("https://h/a/x.index.json?key=1") == "x.index.json"
    assert base_name("/a/x#y") == "x#y"


def test_http_gives_whole_files_and_parts(server: LoopbackServer) -> None:
    address = f"{server.address}/a.tar"
    assert read_whole(address) == bytes(range(200))
    assert read_range(address, start=50, size=7) == bytes(range(50, 57))


def test_http_errors_are_os_errors(server: LoopbackServer) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(f"{server.address}/none.tar")
    server.is_down = True
    with pytest.raises(OSError, match="503"):
        read_range(f"{server.address}/a.tar", start=0, size=5)
    server.is_down = False
    with pytest.raises(OSError, match="gave 20 bytes where 30 were asked for"):
        read_range(f"{server.address}/a.tar", start=180, size=30)
    server.serves_ranges = False
    with pytest.raises(OSError, match="does not serve parts of files"):
        read_range(f"{server.address}/a.tar", start=0, size=5)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        read_whole("http://127.0.0.1:1/a.tar")


def _read_and_collect(address: str) -> None:
    read_whole(address)
    gc.collect()


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(
    server: LoopbackServer,
) -> None:
    address = f"{server.address}/a.tar"
    content = read_whole(address)
    start = time.monotonic()
    for _ in range(5):
        child = multiprocessing.get_context("fork").Process(
            target=_read_and_collect, args=(address,)
        )
        child.start()
        child.join(20)
        assert child.exitcode == 0
        assert read_whole(address) == content
    assert time.monotonic() - start < SILENCE_SECONDS / 2


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gs"), ("https://b/x", "aiohttp", "http")],
)
def test_a_missing_driver_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, address: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(ValueError, match=rf"pip install 'reelscan\[{extra}\]'"):
        check_driver(address)
