"""`reelscan serve` on the command line, as a process."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys

import pytest

from reelscan.retrieval.cli.main import run_command


def test_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert run_command(["serve", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told == "reelscan serve: serving needs uvicorn: pip install 'reelscan[serve]'\n"


def test_mistakes_are_one_line(collection_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, complaint in (
            ((str(collection_path), "--port", str(port)), "choose another --port"),
            ((str(collection_path), "--token", "short"), "at least 8"),
            ((str(collection_path), "--allow-origin", "*"), "no origin of a web page"),
            ((str(collection_path), "--upload-limit", "much"), "is no size"),
            (("nowhere.collection",), "is not a collection"),
            (("milvus:films.db#films",), "cannot be served yet"),
        ):
            assert run_command(["serve", *words]) == 1
            told = capsys.readouterr().err
            assert complaint in told and len(told.strip().splitlines()) == 1


def test_it_serves_until_it_is_interrupted(collection_path, videos, tmp_path):
    script = (
        "from colour_encoder import ColourMatcher\n"
        "from reelscan.retrieval.cli import serve\n"
        "serve.choose_any_encoder = lambda *a, **k: ColourMatcher()\n"
        f"raise SystemExit(serve.main([{str(collection_path)!r}, '--model', 'x', '--port', '0',"
        " '--host', '0.0.0.0']))"
    )
    environment = {**os.environ, "REELSCAN_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "2 videos, 4 segments at http://127.0.0.1:" not in line:
            process.kill()
            pytest.fail(line + process.communicate()[1])
        from reelscan.retrieval.serve.client import ServiceClient

        address = line.split(" at ")[1].split()[0]
        assert ServiceClient(address).search("white").moments[0].start_seconds == 2.0
        # The process that decodes is stopped by the same Ctrl-C.
        ServiceClient(address).upload(videos / "red-blue.mp4")
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    lines = told.strip().splitlines()
    assert lines[0].startswith("warning: everybody who reaches 0.0.0.0")
    assert '"route": "/search"' in lines[1]
    assert "Traceback" not in told
