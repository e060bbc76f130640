"""A double of the gateway: a small HTTP server with the worker's endpoints of one sandbox (`contracts/worker_api.py`)."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, override
from urllib.parse import parse_qs, urlsplit

from muster.common.contract import Message, decode, encode
from muster.common.contracts.sandbox_log import ClippedBody, Finished, LoggedEvent
from muster.common.contracts.worker_api import (
    MAX_BODY_BYTES,
    MAX_PAYLOAD_BYTES,
    Accepted,
    Beat,
    Handoff,
    InboxMessage,
    InboxPage,
    PostEvents,
    PostFinished,
    Refused,
)
from muster.common.faults import InvalidMessage

TOKEN = "canary-5b1d9c0e7f"
Answer = tuple[int, bytes]
Model = Callable[[dict[str, Any]], dict[str, Any]]


class Doors:
    """The log, inbox and model of one sandbox; they stay when the HTTP server is stopped and started again."""

    def __init__(self, sandbox_id: str = "sbx_1", epoch: int = 1) -> None:
        self.sandbox_id, self.epoch = sandbox_id, epoch
        self.events: list[LoggedEvent] = []
        self.posts: list[int] = []
        self.payloads: list[bytes] = []
        self.keeps_payloads = True
        """Whether the gateway has the endpoint for payloads, which earlier releases do not have."""
        self.slow_uploads = 0
        """Uploads of payloads that are answered as if they arrived too slowly."""
        self.beats: list[Beat] = []
        self.finished: list[Finished] = []
        self.inbox: list[InboxMessage] = []
        self.model_requests: list[dict[str, Any]] = []
        self.model: Model = lambda _: said("hello")
        self.fenced = False
        self.after_fence: list[str] = []
        self.refuse_next: list[tuple[int, dict[str, str]]] = []
        self.retry_after: dict[str, str] = {}
        self.changed = threading.Condition()
        self._servers: list[socketserver.BaseServer] = []

    def start(self, port: int = 0) -> str:
        """Start the HTTP server on a TCP port of loopback; return the base URL."""
        server = _TcpServer(("127.0.0.1", port), _handler(self))
        self._serve(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def start_on_socket(self, path: Path) -> str:
        """Start the HTTP server on a unix socket; return a URL for requests over this socket."""
        self._serve(_UnixServer(str(path), _handler(self)))
        return "http://gateway"

    def stop(self) -> None:
        """Stop the HTTP servers and cut all open connections, as if the gateway had been killed."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.shutdown()
            server.server_close()
            server.cut()  # type: ignore[attr-defined]

    def until(self, true: Callable[[], object], timeout: float = 20) -> None:
        """Wait until a condition on the received requests is true; fail after `timeout` seconds."""
        with self.changed:
            assert self.changed.wait_for(true, timeout), f"{len(self.events)} events, {len(self.finished)} finished"

    def offer(self, message: InboxMessage) -> None:
        """Put a message into the sandbox's inbox and wake waiting requests."""
        with self.changed:
            self.inbox.append(message)
            self.changed.notify_all()

    def bodies(self) -> list[dict[str, Any]]:
        """Return the bodies of the logged events, as the agent sent them."""
        return [json.loads(bytes(event.body)) for event in self.events]

    def _serve(self, server: Any) -> None:
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        """Handle one request while holding the lock; a request that waits for messages releases the lock."""
        url = urlsplit(target)
        with self.changed:
            try:
                return self._answered(method, url.path, parse_qs(url.query), headers, body)
            except InvalidMessage as error:
                return _refused(422, str(error), field=error.field)
            finally:
                self.changed.notify_all()

    def _answered(self, method: str, path: str, query: dict[str, list[str]], headers: Any, body: bytes) -> Answer:
        self.retry_after = {}
        if self.refuse_next and path.endswith("/events"):
            status, self.retry_after = self.refuse_next.pop(0)
            return _refused(status, "the test requested this refusal")
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return _refused(401, "unknown token")
        if self.fenced:
            self.after_fence.append(f"{method} {path}")
            return _refused(410, "the epoch has ended")
        if len(body) > (MAX_PAYLOAD_BYTES if method == "PUT" else MAX_BODY_BYTES):
            return _refused(413, "too large")
        match method, path.removeprefix(f"/v1/sandboxes/{self.sandbox_id}"):
            case "POST", "/events":
                return self._append(decode(body, PostEvents))
            case "POST", "/finished":
                return self._finish(decode(body, PostFinished))
            case "POST", "/beat":
                self.beats.append(decode(body, Beat))
                return _accepted(len(self.events) + 1)
            case "PUT", upload if upload.startswith("/payloads/") and self.slow_uploads:
                self.slow_uploads -= 1
                return 408, b"{}"
            case "PUT", upload if upload.startswith("/payloads/") and self.keeps_payloads:
                self.payloads.append(body)
                return 201, encode(ClippedBody.of(body, sha256=upload.removeprefix("/payloads/")))
            case "GET", "/inbox":
                return self._page(int(query["after"][0]), float(query["wait_s"][0]))
            case "POST", "/v1/chat/completions":
                request = json.loads(body)
                self.model_requests.append(request)
                reply = self.model(request)
                return reply.pop("_status", 200), json.dumps(reply).encode()
            case _:
                return _refused(404, path)

    def _append(self, post: PostEvents) -> Answer:
        if post.epoch != self.epoch:
            return _refused(410, "another epoch")
        expected = len(self.events) + 1
        seqs = [event.seq for event in post.events]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs))):
            return _refused(422, "seqs have holes", field="$.events")
        if seqs[0] > expected:
            return _refused(409, "a gap", next_seq=expected)
        self.events += [event for event in post.events if event.seq >= expected]
        self.posts.append(len(post.events))
        return _accepted(len(self.events) + 1)

    def _finish(self, post: PostFinished) -> Answer:
        if post.epoch != self.epoch:
            return _refused(410, "another epoch")
        if post.next_seq != len(self.events) + 1:
            return _refused(409, "events are missing", next_seq=len(self.events) + 1)
        self.finished.append(post.result)
        return _accepted(len(self.events) + 1)

    def _page(self, after: int, wait_s: float) -> Answer:
        def fresh() -> list[InboxMessage]:
            return [message for message in self.inbox if message.position > after]

        self.changed.wait_for(lambda: fresh() or self.fenced or not self._servers, wait_s)
        if self.fenced:
            return _refused(410, "the epoch has ended")
        return 200, encode(InboxPage(messages=fresh()))


class _Cut:
    """A mixin for HTTP servers that stores open connections, so that `cut` can shut them down."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.__dict__.setdefault("connections", []).append(request)
        super().process_request(request, client_address)  # type: ignore[misc]

    def cut(self) -> None:
        for connection in self.__dict__.get("connections", []):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error, because tests cut connections on purpose."""


class _TcpServer(_Cut, ThreadingHTTPServer):
    daemon_threads = True


class _UnixServer(_Cut, socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _handler(doors: Doors) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def do_PUT(self) -> None:
            self.do_POST()

        def _answer(self, body: bytes) -> None:
            status, answer = doors.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            for name, value in doors.retry_after.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

    return Handler


def _accepted(next_seq: int) -> Answer:
    return 202, encode(Accepted(next_seq=next_seq))


def _refused(status: int, detail: str, **more: Any) -> Answer:
    return status, encode(Refused(type="about:blank", title="refused", status=status, detail=detail, **more))


def said(text: str) -> dict[str, Any]:
    """Return a model's response with a text and no tool call."""
    return _choice({"role": "assistant", "content": text}, "stop")


def called(tool: str, number: int, **arguments: Any) -> dict[str, Any]:
    """Return a model's response that calls a tool."""
    function = {"name": tool, "arguments": json.dumps(arguments)}
    calls = [{"id": f"call_{number}", "type": "function", "function": function}]
    return _choice({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


def _choice(message: dict[str, Any], why: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": why}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def handoff_for(doors: Doors, url: str, folder: Path, **changes: Any) -> Handoff:
    """Return a handoff (the worker's task and settings) for this sandbox, with workspace and state below `folder`."""
    told: dict[str, Any] = {
        "gateway_url": url,
        "token": TOKEN,
        "sandbox_id": doors.sandbox_id,
        "task_id": "tsk_1",
        "agent_id": "agt_1",
        "epoch": doors.epoch,
        "conversation_id": "cnv_1",
        "package": "echo",
        "model": "scripted/test",
        "objective": "Make it work.",
        "workspace": str(folder / "workspace"),
        "state_dir": str(folder / "state"),
        "timeout_s": 60.0,
        "beat_running_s": 0.2,
    }
    return Handoff(**(told | changes))


def launch(
    package: str, handoff: Message, folder: Path, *, module: str | None = None, path: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a worker as the shim does: with the path of a handoff file, in a new session."""
    file = folder / "handoff.json"
    file.write_bytes(encode(handoff))
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module or f"muster.agents.{package}", "--handoff", str(file)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        )
