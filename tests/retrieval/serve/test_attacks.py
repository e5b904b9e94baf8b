"""What hostile requests get."""

import json
import struct
import zlib

import pytest
from error_answers import message

SECRET = "only-for-me-0123"


@pytest.fixture
def outside(videos):
    """A file beside the videos' folder, which no request may read."""
    path = videos.parent / "secret.mp4"
    path.write_bytes(b"secret")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../secret.mp4",
        "..%2fsecret.mp4",
        "%2e%2e/secret.mp4",
        "%2e%2e%2fsecret.mp4",
        "sub folder/../../secret.mp4",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..\\secret.mp4",
        "red-blue.mp4/../../secret.mp4",
        "red-blue.mp4%00.jpg",
        "%00",
        "\ufffd%ff%fe",
        "a" * 5000,
        "file:///etc/passwd",
        "concat:red-blue.mp4|red-blue.mp4",
        "",
    ],
)
def test_names_that_are_no_videos_reach_no_file(client, outside, name):
    for address in ("/media/", "/videos/", "/frame?video="):
        answer = client.get(f"{address}{name}")
        if address == "/videos/" and name == "":
            continue
        assert answer.status_code in (400, 404, 422), (address, answer.status_code)
        assert answer.content != b"secret" and b"root:" not in answer.content


def test_static_files_are_those_of_the_page(client):
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd"):
        assert client.get(f"/static/{name}").status_code == 404


def test_a_link_that_leaves_the_folder_is_not_served(make_client, tmp_path, videos):
    from colour_encoder import ColourMatcher, write_colours

    from reelscan.index.embed import embed_folder

    write_colours(tmp_path / "private" / "other.mp4", "red red")
    (tmp_path / "videos").mkdir()
    inside = write_colours(tmp_path / "videos" / "inside.mp4", "blue blue")
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "private" / "other.mp4")
    (tmp_path / "videos" / "fine.mp4").symlink_to(inside)
    embed_folder(ColourMatcher(), tmp_path / "videos", tmp_path / "c")
    client = make_client(path=tmp_path / "c")
    for address in ("/media/link.mp4", "/frame?video=link.mp4"):
        answer = client.get(address)
        assert answer.status_code == 404 and "leaves the collection's folder" in message(answer)
    assert client.get("/media/fine.mp4").status_code == 200
    # Swapped after it was indexed.
    inside.unlink()
    inside.symlink_to(tmp_path / "private" / "other.mp4")
    assert client.get("/media/inside.mp4").status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1@evil",
             "[::1", "localhost:x", "a:b:c"]
)  # fmt: skip
def test_other_names_are_refused(client, host):
    answer = client.get("/health", headers={"host": host})
    assert answer.status_code == 400 and "--allow-host" in message(answer)


def test_own_names_are_taken(make_client):
    client = make_client(allowed_hosts=("Films.example",))
    for host in ("localhost", "127.0.0.1:9", "[::1]:8000", "192.168.0.7", "films.example:443"):
        assert client.get("/health", headers={"host": host}).status_code == 200


def test_other_pages_may_neither_read_nor_change(make_client):
    client = make_client()
    evil = {"origin": "http://evil.example"}
    answer = client.post("/search", json={"text": "red"}, headers=evil)
    assert answer.status_code == 403 and "--allow-origin" in message(answer)
    assert client.post("/uploads", content=b"x", headers={"origin": "null"}).status_code == 403
    read = client.get("/videos", headers=evil)
    assert "access-control-allow-origin" not in read.headers
    assert read.headers["cross-origin-resource-policy"] == "same-origin"
    own = {"origin": "http://127.0.0.1:8000"}
    assert client.post("/search", json={"text": "red"}, headers=own).status_code == 200
    friend = make_client(allowed_origins=("https://friend.example",))
    allowed = friend.post(
        "/search", json={"text": "red"}, headers={"origin": "https://friend.example"}
    )
    assert allowed.headers["access-control-allow-origin"] == "https://friend.example"
    assert friend.post("/search", json={"text": "red"}, headers=evil).status_code == 403


def test_without_the_token_nothing_is_told(make_client):
    client = make_client(token=SECRET)
    for address in ("/collection", "/videos", "/videos/red-blue.mp4", "/media/red-blue.mp4",
                    "/frame?video=red-blue.mp4", "/search?text=red", "/metrics", "/openapi.json",
                    "/nowhere"):  # fmt: skip
        answer = client.get(address)
        assert answer.status_code == 401, address
        assert answer.headers["www-authenticate"] == "Bearer"
        assert b"red-blue" not in answer.content
    for given in ("Bearer wrong", f"Basic {SECRET}", "Bearer", f"Bearer {SECRET}x", "Bearer é"):
        headers = {"authorization": given.encode()}
        assert client.get("/videos", headers=headers).status_code == 401
    assert client.get("/videos", headers={"cookie": "reelscan_session="}).status_code == 401
    for address in ("/", "/health", "/ready"):
        assert client.get(address).status_code == 200
    assert client.get("/videos", headers={"authorization": f"Bearer {SECRET}"}).status_code == 200


def test_a_browser_signs_in_once(make_client):
    client = make_client(token=SECRET)
    assert client.post("/session", json={"token": "wrong"}).status_code == 401
    signed = client.post("/session", json={"token": SECRET})
    assert signed.status_code == 204
    cookie = signed.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and SECRET not in cookie
    assert client.get("/videos").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000, b'{"text": NaN}', b'{"text": 1}',
        b'{"text": ""}', b'{"text": "   "}', b'{}', b'{"text": "a", "top": 0}',
        b'{"text": "a", "top": 1e400}', b'{"text": "a", "unknown": 1}', b'{"text": "\\ud800"}',
        b'{"parts": [{"text": "a", "weight": NaN}]}', b'{"parts": [{"text": "a", "weight": 0}]}',
        b'{"parts": [{"text": "a", "video": "b"}]}', b'{"parts": [{"text": "a", "weight": -1}]}',
        b'{"parts": [{"video": "../secret.mp4"}]}', b'{"text": "a", "where": "1; drop table x"}',
        b'{"text": "a", "where": "start in (((((("}', b'{"text": "a", "where": "camra = 1"}',
        b'{"parts": [{"video": "red-blue.mp4", "start_seconds": 500, "end_seconds": 501}]}',
        b'{"parts": [{"video": "red-blue.mp4", "start_seconds": 5, "end_seconds": 2}]}',
        b'{"text": "a", "video": "x\' or 1=1 --", "min_score": 7}',
        json.dumps({"text": "a" * 2001}).encode(),
        json.dumps({"parts": [{"text": "a"}] * 17}).encode(),
    ],
)  # fmt: skip
def test_malformed_searches_get_one_line(client, body):
    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404, 422), answer.text
    assert message(answer)


def test_bodies_that_are_too_large_are_refused(make_client):
    client = make_client(upload_bytes=5000, body_bytes=1000)
    assert client.post("/search", content=b"x" * 1001).status_code == 413
    assert client.post("/uploads", content=b"x" * 5001).status_code == 413

    # Sent in pieces, without a length.
    assert client.post("/uploads", content=(b"x" * 700 for _ in range(9))).status_code == 413
    answer = client.post("/search", content=b"x", headers={"content-length": "9" * 30})
    assert answer.status_code == 413
    assert client.post("/search", json={"text": "red"}).status_code == 200


def bomb(width, height):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def test_hostile_files_are_refused_and_the_next_is_taken(client, videos):
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    concat = f"ffconcat version 1.0\nfile '{videos}/red-blue.mp4'\n".encode()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    cut = (videos / "red-blue.mp4").read_bytes()[:300]
    for content in (b"", b"\0", b"no picture", playlist, concat, svg, cut, bomb(60000, 60000)):
        answer = client.post("/uploads", content=content)
        assert answer.status_code == 400, (content[:20], answer.text)
        assert str(videos) not in message(answer)
    assert client.post("/uploads", content=(videos / "red-blue.mp4").read_bytes()).is_success


def test_odd_methods_and_paths(client):
    assert client.request("DELETE", "/videos/red-blue.mp4").status_code == 405
    assert client.request("POST", "/media/red-blue.mp4").status_code == 405
    missing = client.get("/nowhere/<script>alert(1)</script>")
    assert missing.status_code == 404 and "script" not in missing.text
    assert "default-src 'self'" in missing.headers["content-security-policy"]


def test_an_unforeseen_failure_tells_its_id_and_no_more(client, caplog):
    def fail(request):
        raise KeyError("internal-detail")

    client.service.search = fail
    answer = client.post("/search", json={"text": "red"})
    assert answer.status_code == 500
    assert "internal-detail" not in answer.text
    assert "internal-detail" in caplog.text
    assert json.loads(answer.content)["error"]["request_id"] in caplog.text
