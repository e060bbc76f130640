"""`muster doctor` warns of sandboxes that the gateway has left because their records may be lost."""

import http.server
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, override

import pytest

from muster.cli.commands.left_sandboxes import left_at


@contextmanager
def gateway(body: bytes) -> Generator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        @override
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body if self.path == "/health" else b"{}")

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_sandboxes_without_a_record_are_named() -> None:
    with gateway(b'{"status": "alive", "left_sandboxes": ["daytona/sbx_1", "local/sbx_2"]}') as url:
        (warning,) = left_at(url)
    assert warning.verdict == "warn"
    assert "daytona/sbx_1, local/sbx_2" in warning.found


@pytest.mark.parametrize(
    "body", [b'{"status": "alive", "left_sandboxes": []}', b'{"status": "alive"}', b"no json", b'{"left_sandboxes": 3}']
)
def test_a_gateway_that_has_left_nothing_or_answers_nonsense_gives_no_warning(body: bytes) -> None:
    with gateway(body) as url:
        assert list(left_at(url)) == []


def test_a_gateway_that_does_not_answer_gives_no_warning() -> None:
    assert list(left_at("http://127.0.0.1:9")) == []
