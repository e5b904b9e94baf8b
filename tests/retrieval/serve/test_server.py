"""A service on a real socket: slow and rude clients, overload, and the Python client."""

import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from colour_encoder import ColourMatcher
from running_service import running


class SlowEncoder(ColourMatcher):
    """Takes a while for each batch of sentences, and counts batches."""

    batches = 0

    def encode_text(self, texts):
        self.batches += 1
        time.sleep(0.2)
        return super().encode_text(texts)


def connect(address):
    parts = urllib.parse.urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def raw(address, request):
    """Everything that the service says to these bytes until it hangs up."""
    with connect(address) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def get(path, *headers):
    return "\r\n".join(
        (f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", "")
    ).encode("latin-1")


def test_raw_paths_and_requests(collection_path):
    (collection_path.parent / "secret.mp4").write_bytes(b"secret")
    with running(collection_path, ColourMatcher()) as (address, _):
        for path in ("/media/../secret.mp4", "/media/..%2fsecret.mp4", "/media//etc/passwd",
                     "/media/%2e%2e/secret.mp4", "/../../etc/passwd", "/static/../app.py",
                     "/media/red-blue.mp4/../../secret.mp4"):  # fmt: skip
            answer = raw(address, get(path))
            assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), (path, answer[:100])
            assert b"root:" not in answer and not answer.endswith(b"secret")
        assert raw(address, get("/health")).startswith(b"HTTP/1.1 200")
        twice = raw(address, get("/health", "Host: evil.example"))
        assert twice.startswith(b"HTTP/1.1 400")
        nonsense = raw(address, b"\x16\x03\x01 not http\r\n\r\n")
        assert nonsense.startswith(b"HTTP/1.1 400")
        with suppress(ConnectionError):
            endless = raw(address, get("/health", "X-Long: " + "a" * 3_000_000))
            assert endless.startswith(b"HTTP/1.1 400")
        smuggled = raw(
            address,
            b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /x",
        )
        assert smuggled.count(b"HTTP/1.1 ") == 1
        assert raw(address, get("/health")).startswith(b"HTTP/1.1 200")


def test_slow_clients_are_hung_up_on(collection_path):
    from reelscan.retrieval.serve.server import ImpatientProtocol

    class Hasty(ImpatientProtocol):
        header_seconds = 0.3

    with running(collection_path, ColourMatcher(), protocol=Hasty, body_seconds=0.3) as (
        address,
        _,
    ):
        started = time.monotonic()
        assert raw(address, b"") == b""
        assert raw(address, b"GET /health HTTP/1.1\r\nHos") == b""
        body = (
            b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert raw(address, body).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
        # A quick client may use a connection again and again.
        with connect(address) as connection:
            for _ in range(3):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200")
                time.sleep(0.1)


def test_a_client_that_leaves_harms_nobody(collection_path):
    with running(collection_path, ColourMatcher()) as (address, _):
        for _ in range(5):
            with connect(address) as connection:
                connection.sendall(get("/media/red-blue.mp4"))
                connection.recv(10)
        assert raw(address, get("/search?text=red")).startswith(b"HTTP/1.1 200")


def test_overload_is_answered_and_passes(collection_path):
    from reelscan.retrieval.serve.client import ServiceClient, ServiceError

    gate = threading.Event()
    limits = {"searching": 1, "waiting": 3, "waiting_per_client": 3}
    with running(collection_path, ColourMatcher(), **limits) as (address, service):
        client = ServiceClient(address)
        search = service.search

        def held(request):
            gate.wait(10)
            return search(request)

        service.search = held
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(client.search, "red") for _ in range(8)]
            while sum(one.done() for one in asked) < 5:
                time.sleep(0.01)
            gate.set()
            outcomes = [one.exception() for one in asked]
        refused = [one for one in outcomes if one is not None]
        assert [type(one) for one in refused] == [ServiceError] * 5
        assert {one.status for one in refused} == {429}
        assert client.search("red").moments[0].score > 0.5


def test_work_that_takes_too_long_is_given_up_but_keeps_its_place(collection_path):
    from reelscan.retrieval.serve.client import ServiceClient, ServiceError

    gate = threading.Event()
    limits = {"searching": 1, "waiting": 1, "answer_seconds": 0.3}
    with running(collection_path, ColourMatcher(), **limits) as (address, service):
        client = ServiceClient(address)
        search = service.search
        service.search = lambda request: gate.wait(10) and search(request)
        with pytest.raises(ServiceError, match=r"no answer within 0\.3 s") as late:
            client.search("red")
        assert late.value.status == 503
        with pytest.raises(ServiceError, match="no answer within"):
            client.search("red")
        gate.set()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                assert client.search("red").moments
                break
            except ServiceError:
                time.sleep(0.05)
        else:
            pytest.fail("it did not recover")


def test_sentences_in_flight_go_through_the_model_together(collection_path):
    from reelscan.retrieval.serve.client import ServiceClient

    encoder = SlowEncoder()
    words = [f"red number {number}" for number in range(12)]
    with running(collection_path, encoder, searching=12) as (address, _):
        client = ServiceClient(address)
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(client.search, words))
    assert all(answer.moments[0].score > 0.4 for answer in answers)
    assert encoder.batches <= 4


def test_the_python_client(collection_path, videos):
    from reelscan.retrieval.serve.api_types import QueryPart
    from reelscan.retrieval.serve.client import ServiceClient, ServiceError

    token = "a-token-of-mine"
    with running(collection_path, ColourMatcher(), token=token) as (address, _):
        client = ServiceClient(address, token=token)
        assert client.collection().segments == 4
        assert client.search("white", top=1).moments[0].start_seconds == 2.0
        example = client.upload(videos / "red-blue.mp4")
        assert len(client.search(parts=[example, QueryPart(text="green")]).moments) == 4
        assert client.search("red", group="video").videos[0].moments
        assert len(client.embed(["red", "blue"]).vectors) == 2
        assert [one.title for one in client.videos().videos] == ["red-blue", "blue red's"]
        assert client.video("sub folder/blue_red's.mp4").end_seconds == pytest.approx(4, abs=0.2)
        with pytest.raises(ServiceError, match="no video 'x'") as missing:
            client.video("x")
        assert missing.value.status == 404 and missing.value.request_id
        with pytest.raises(ServiceError, match="token is needed"):
            ServiceClient(address).search("red")
    with pytest.raises(ServiceError, match="cannot be reached"):
        client.search("red")
    with pytest.raises(ValueError, match="http://host"):
        ServiceClient("file:///etc/passwd")
