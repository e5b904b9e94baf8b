"""A service that listens on the loopback device, in a thread."""

import threading
import time
from contextlib import contextmanager

from reelscan.index.collection import Collection


@contextmanager
def running(path, encoder, *, protocol=None, **settings):
    """(address, service) of a collection that is served."""
    from reelscan.retrieval.serve.app import create_app
    from reelscan.retrieval.serve.server import ImpatientProtocol, address_of, listen, make_server
    from reelscan.retrieval.serve.service import SearchService
    from reelscan.retrieval.serve.settings import ServeSettings

    settings = ServeSettings(port=0, **settings)
    with Collection.open(path, read_only=True) as collection:
        service = SearchService(collection, encoder)
        listening = listen(settings)
        app = create_app(service, settings=settings)
        server = make_server(app, settings, protocol=protocol or ImpatientProtocol)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started:
                assert thread.is_alive() and time.monotonic() < deadline, "it did not start"
                time.sleep(0.01)
            yield address_of(listening), service
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            listening.close()
