"""A double of the APIs of GitHub and GitLab for pull requests: it keeps the requests and fails on command."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_double import QuietHandler, serving_http

_GITHUB = {"source": "head", "target": "base", "text": "body", "url": "html_url", "open": "open"}
_GITLAB = {
    "source": "source_branch",
    "target": "target_branch",
    "text": "description",
    "url": "web_url",
    "open": "opened",
}


@dataclass
class ForgeDouble:
    """The open and closed requests, and what the double shall do."""

    kind: str
    token: str = "hidden-token"
    status: int = 0
    """The status of the answer to each attempt to open a request, if not 0."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """More headers of each answer."""
    lost_answers: int = 0
    """The number of next attempts whose request is opened, but whose answer is lost."""
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    paths: list[str] = field(default_factory=list[str])
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> dict[str, str]:
        return _GITHUB if self.kind == "github" else _GITLAB


@contextmanager
def forge_double(kind: str) -> Generator[ForgeDouble]:
    """Serve the API of a forge over HTTP."""
    told = ForgeDouble(kind)
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server calls this name
            url = urlsplit(self.path)
            told.paths.append(unquote(url.path))
            if not self._knows():
                return
            wanted = parse_qs(url.query)[told.names["source"]][0].rpartition(":")[2]
            self._answer(200, [one for one in told.requests if one[told.names["source"]] == wanted])

        def do_POST(self) -> None:  # noqa: N802 - http.server calls this name
            told.paths.append(unquote(self.path))
            fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._knows():
                return
            if told.status:
                self._answer(told.status, {"message": "not today"})
                return
            with lock:
                names = told.names
                same = [one for one in told.requests if one[names["source"]] == fields[names["source"]]]
                if any(one["state"] == names["open"] for one in same):
                    self._answer(422 if told.kind == "github" else 409, {"message": "already exists"})
                    return
                made = {**fields, "state": names["open"], names["url"]: f"{told.url}/made/{len(told.requests) + 1}"}
                told.requests.append(made)
            if told.lost_answers:
                told.lost_answers -= 1
                self.close_connection = True
                return
            self._answer(201, made)

        def _knows(self) -> bool:
            given = self.headers.get("PRIVATE-TOKEN") or self.headers.get("Authorization", "").removeprefix("Bearer ")
            if given != told.token:
                self._answer(401, {"message": "Bad credentials"})
            return given == told.token

        def _answer(self, status: int, body: object) -> None:
            encoded = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(encoded)

    with serving_http(Handler) as told.port:
        yield told
