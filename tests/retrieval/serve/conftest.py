"""A small collection of coloured videos, and a client that talks to its service."""

import pytest
from colour_encoder import ColourMatcher, write_colours
from optional_package import require_package

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True, scope="session")
def with_the_extra():
    require_package("fastapi", extra="serve")


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "videos"
    write_colours(folder / "red-blue.mp4", "red blue green green")
    write_colours(folder / "sub folder" / "blue_red's.mp4", "blue red white white")
    return folder


@pytest.fixture(scope="session")
def collection_path(videos):
    path = videos.parent / "my.collection"
    embed_folder(ColourMatcher(), videos, path, window_seconds=2.0)
    with Collection.open(path) as writer:
        writer.edit_metadata(["red-blue.mp4"], {"camera": "north", "hour": 3})
    return path


@pytest.fixture
def make_client(collection_path):
    """A function from settings to a client; what it opened is closed at the end."""
    from starlette.testclient import TestClient

    from reelscan.retrieval.serve.app import create_app
    from reelscan.retrieval.serve.service import SearchService
    from reelscan.retrieval.serve.settings import ServeSettings

    opened = []

    def make(*, encoder=None, path=collection_path, address=ADDRESS, **settings):
        collection = Collection.open(path, read_only=True)
        service = SearchService(collection, encoder or ColourMatcher())
        app = create_app(service, settings=ServeSettings(**settings))
        client = TestClient(app, base_url=address, raise_server_exceptions=False)
        client.__enter__()
        opened.append((client, collection))
        client.service = service
        return client

    yield make
    for client, collection in opened:
        client.__exit__(None, None, None)
        collection.close()


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture
def search(client):
    """Posts a search that has to succeed."""

    def post(**wanted):
        answer = client.post("/search", json=wanted)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return post
