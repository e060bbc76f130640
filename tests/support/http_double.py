"""The server loop of the doubles of HTTP servers: a thread that serves requests on a free port of loopback."""

import http.server
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, override


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """Handles requests of connections that stay open, and writes no access log."""

    protocol_version = "HTTP/1.1"

    @override
    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextmanager
def serving_http(handler: type[QuietHandler]) -> Generator[int]:
    """Serve requests with this handler, each in a thread of its own. Yield the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
