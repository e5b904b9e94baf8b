"""A small Hugging Face Hub on loopback: what huggingface_hub asks to download and to upload."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class FakeHub:
    """Repositories by name, each {revision: {file: bytes}}; `requests` lists what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.token: str | None = None
        """If set, what writing and reading need."""
        self.url = ""

    def add(self, repository: str, files: dict[str, Path | bytes], *, revision: str = "main"):
        content = {
            name: file if isinstance(file, bytes) else file.read_bytes()
            for name, file in files.items()
        }
        self.repositories.setdefault(repository, {}).setdefault(revision, {}).update(content)

    def commit(self, repository: str, revision: str) -> str:
        files = self.repositories[repository][revision]
        text = json.dumps([(n, hashlib.sha256(c).hexdigest()) for n, c in sorted(files.items())])
        return hashlib.sha1(text.encode()).hexdigest()

    def revision(self, repository: str, wanted: str) -> str | None:
        """The branch of that name or with that commit."""
        branches = self.repositories.get(repository, {})
        if wanted in branches:
            return wanted
        return next((name for name in branches if self.commit(repository, name) == wanted), None)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.resolve(body=False)

    def do_GET(self):
        self.resolve(body=True)

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.allowed():
            return
        words = unquote(self.path).strip("/").split("/")
        if words == ["api", "repos", "create"]:
            told = json.loads(content)
            name = (
                f"{told['organization']}/{told['name']}"
                if told.get("organization")
                else told["name"]
            )
            known = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {"main": {}})
            self.answer(409 if known else 200, {"url": f"{self.hub.url}/{name}"})
            return
        repository, action = "/".join(words[2:4]), words[4]
        revision = words[5] if len(words) > 5 else "main"
        if action == "branch":
            branches = self.hub.repositories[repository]
            known = revision in branches
            branches.setdefault(revision, {})
            self.answer(409 if known else 200, {})
        elif action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(content)["files"]
            ]
            self.answer(200, {"files": files})
        elif action == "commit":
            for line in content.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    data = base64.b64decode(value["content"])
                    self.hub.add(repository, {value["path"]: data}, revision=revision)
            oid = self.hub.commit(repository, revision)
            url = f"{self.hub.url}/{repository}/commit/{oid}"
            self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})
        else:
            self.answer(404, {"error": f"nothing at {self.path}"})

    def resolve(self, *, body: bool):
        if not self.allowed():
            return
        words = unquote(self.path.split("?")[0]).strip("/").split("/")
        if words[:2] == ["api", "models"] and len(words) >= 4:
            name = "/".join(words[2:4])
            revision = self.hub.revision(name, words[5] if len(words) > 5 else "main")
            if revision is not None:
                self.answer(200, {"id": name, "sha": self.hub.commit(name, revision)})
            else:
                self.missing("RepoNotFound")
            return
        repository, wanted, file = "/".join(words[:2]), "".join(words[3:4]), "/".join(words[4:])
        if repository not in self.hub.repositories:
            self.missing("RepoNotFound")
            return
        revision = self.hub.revision(repository, wanted)
        if revision is None:
            self.missing("RevisionNotFound")
            return
        content = self.hub.repositories[repository][revision].get(file)
        if content is None:
            self.missing("EntryNotFound")
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.hub.commit(repository, revision))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def allowed(self) -> bool:
        given = self.headers.get("Authorization")
        self.hub.requests.append((self.command, self.path, given))
        if self.hub.token is not None and given != f"Bearer {self.hub.token}":
            self.missing("RepoNotFound", status=401)
            return False
        return True

    def missing(self, code: str, *, status: int = 404):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status: int, content: object):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
