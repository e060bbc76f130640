"""The HTTP server: it finds the behaviour of a request, sends the answer, and remembers what it was asked.

The server runs in a thread with a separate event loop, so that tests with and without asyncio can use it and a client
that blocks its own loop does not stop the server.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.support.model_server.anthropic_format import AnthropicFormat
from tests.support.model_server.behaviours import BY_NAME, Behaviour, HalfAnswer, Hang, Raw, Refused, Slow
from tests.support.model_server.ollama_format import OllamaFormat
from tests.support.model_server.openai_format import OpenAIFormat, VllmFormat
from tests.support.model_server.requests import ModelRequest, Shape, fields
from tests.support.model_server.shapes import JSON, ErrorBody, ProviderFormat
from tests.support.patience import PATIENCE_S

FORMATS: dict[Shape, type[ProviderFormat]] = {
    "openai": OpenAIFormat,
    "vllm": VllmFormat,
    "anthropic": AnthropicFormat,
    "ollama": OllamaFormat,
}


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it arrived. The names of `headers` are lower case; `body` is None if it is not JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    at_s: float
    """Time of arrival on the clock `time.monotonic`."""


class ModelServer:
    """A model server on a free port of this machine; `with ModelServer("vllm") as server:` starts and stops it.

    A request is answered by the first behaviour of `script`, which is then removed unless it is the last one. With an
    empty script the name of the model selects the behaviour in `models`. Both may be changed at any time.

    `key` is the API key that the server requires; without it every key and no key are accepted. `context_length` is
    the number of tokens that the server reports for each model.
    """

    def __init__(
        self,
        shape: Shape = "openai",
        *behaviours: Behaviour,
        models: Mapping[str, Behaviour] | None = None,
        key: str | None = None,
        context_length: int = 32_768,
        port: int = 0,
    ) -> None:
        self.shape: Shape = shape
        self.key, self.context_length = key, context_length
        self.script: list[Behaviour] = list(behaviours)
        self.models = dict(BY_NAME if models is None else models)
        self.connections = 0
        """Number of connections that clients have opened, also without a request."""
        self.disconnects = 0
        """Number of clients that closed their connection while `Hang` or `Slow` let them wait."""
        self._format = FORMATS[shape]()
        self._arrived = threading.Condition()
        self._requests = list[ReceivedRequest]()
        self._port = port
        self._released: asyncio.Event | None = None
        self._uvicorn: _StoppableServer | None = None

    @property
    def url(self) -> str:
        """Address of the server, also after its end; before its start the port is not known."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_base(self) -> str:
        """The base URL as a client of this provider expects it: with `/v1` for OpenAI and vLLM."""
        return f"{self.url}/v1" if self.shape in ("openai", "vllm") else self.url

    @property
    def completions_url(self) -> str:
        """The whole URL of the completions, for a client of one's own and for `Redirect`."""
        return self.url + self._format.path

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests so far, in the order of their arrival."""
        with self._arrived:
            return list(self._requests)

    @property
    def completions(self) -> list[ReceivedRequest]:
        """The requests for a completion so far."""
        return [request for request in self.requests if request.path == self._format.path]

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]  # A server that starts again has the same address.
        self._uvicorn = _StoppableServer(self)
        self._uvicorn.start(listening)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._uvicorn
        self.release()
        self._uvicorn.stop()

    def release(self) -> None:
        """Let all requests go on that `Hang` or `Slow` holds now."""
        assert self._uvicorn
        self._uvicorn.call(self._release)

    def _release(self) -> None:
        released, self._released = self._released, None
        if released:
            released.set()

    async def wait_for(self, count: int, within_s: float = PATIENCE_S) -> list[ReceivedRequest]:
        """Wait until `count` requests for a completion have arrived, and return all of them.

        Raises AssertionError after `within_s` seconds.
        """
        return await asyncio.to_thread(self.wait_blocking, count, within_s)

    def wait_blocking(self, count: int, within_s: float = PATIENCE_S) -> list[ReceivedRequest]:
        """Do the same as `wait_for` in a test without asyncio."""
        # The lock of a `Condition` is re-entrant, so `completions` may take it again.
        with self._arrived:
            there = self._arrived.wait_for(lambda: len(self.completions) >= count, within_s)
        assert there, f"{len(self.completions)} of {count} requests arrived within {within_s} s"
        return self.completions

    async def wait_for_disconnects(self, count: int, within_s: float = PATIENCE_S) -> None:
        """Wait until `disconnects` is at least `count`; raises AssertionError after `within_s` seconds."""

        def wait() -> bool:
            with self._arrived:
                return self._arrived.wait_for(lambda: self.disconnects >= count, within_s)

        assert await asyncio.to_thread(wait), f"{self.disconnects} of {count} clients left within {within_s} s"

    def wait_for_any(self, seen: int) -> list[ReceivedRequest]:
        """Wait until there are more than `seen` requests of any kind, and return the later ones."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._requests) > seen)
            return self._requests[seen:]

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer one request. This is the ASGI application."""
        assert scope["type"] == "http"
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        method, path, body = scope["method"], scope["path"], await _body(receive)
        with self._arrived:
            self._requests.append(ReceivedRequest(method, path, headers, body, time.monotonic()))
            self._arrived.notify_all()
        exchange = _Exchange(receive, send)
        try:
            await self._answer(exchange, method, path, headers, body)
        except ErrorBody as error:
            await exchange.send_whole(error.status, msgspec.json.encode(error.body), JSON, error.headers)

    async def _answer(
        self, exchange: "_Exchange", method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> None:
        if self.key is not None:
            self._format.authorize(headers, self.key)
        listing = self._format.listing(method, path, body, list(self.models), self.context_length)
        if listing is not None:
            await exchange.send_whole(200, msgspec.json.encode(listing), JSON)
        elif (method, path) != ("POST", self._format.path):
            raise ErrorBody(404, {"detail": "Not Found"})
        elif not isinstance(body, dict):
            raise ErrorBody(400, {"detail": "The body is not a JSON object"})
        else:
            await self._complete(exchange, ModelRequest(self.shape, fields(body)), headers)

    async def _complete(self, exchange: "_Exchange", request: ModelRequest, headers: Mapping[str, str]) -> None:
        name = request.model.removesuffix(":latest") if self.shape == "ollama" else request.model
        if name not in self.models:
            raise self._format.unknown_model(request.model)
        self._format.check(request, headers)
        behaviour = self._next(name)
        if isinstance(behaviour, Hang) and not await self._held(behaviour, exchange):
            return
        match behaviour.answer(request):
            case Refused() as refused:
                raise self._format.refusal(refused, request)
            case Raw(status, content, content_type, extra):
                await exchange.send_whole(status, content, content_type, dict(extra))
            case said if request.stream:
                parts = self._format.events(said, request, len(self.requests))
                await exchange.send_stream(parts, self._format.stream_type, cut=isinstance(behaviour, HalfAnswer))
            case said:
                content = msgspec.json.encode(self._format.whole(said, request, len(self.requests)))
                await exchange.send_whole(200, content, JSON, cut=isinstance(behaviour, HalfAnswer))

    def _next(self, model: str) -> Behaviour:
        with self._arrived:
            if not self.script:
                return self.models[model]
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    async def _held(self, behaviour: Hang, exchange: "_Exchange") -> bool:
        """Wait for the release or the time of `Slow`; return False if the client has gone before."""
        self._released = self._released or asyncio.Event()
        here = await exchange.wait(self._released, behaviour.after_s if isinstance(behaviour, Slow) else None)
        with self._arrived:
            self.disconnects += not here
            self._arrived.notify_all()
        return here


@dataclass(frozen=True)
class _Exchange:
    """The connection of one request."""

    receive: ASGIReceiveCallable
    send: ASGISendCallable

    async def send_whole(
        self,
        status: int,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        """Send a body with its length. With `cut` the second half is missing, and the connection is closed."""
        fields = {"content-length": str(len(body)), "content-type": content_type, **(headers or {})}
        await self._begin(status, fields)
        # uvicorn closes the connection when the application returns in the middle of a response.
        await self._part(body[: len(body) // 2] if cut else body, more=cut)

    async def send_stream(self, parts: Sequence[bytes], content_type: str, *, cut: bool = False) -> None:
        await self._begin(200, {"content-type": content_type})
        for part in parts[: len(parts) // 2] if cut else parts:
            await self._part(part, more=True)
        if not cut:
            await self._part(b"", more=False)

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded, "trailers": False})

    async def _part(self, body: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait for the event, at most some seconds; return False as soon as the client closes the connection."""
        here = True

        async def watch() -> None:
            nonlocal here
            while (await self.receive())["type"] != "http.disconnect":
                pass
            here = False
            waiting.cancel()

        async def wait() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
            watching.cancel()

        async with asyncio.TaskGroup() as tasks:
            watching, waiting = tasks.create_task(watch()), tasks.create_task(wait())
        return here


async def _body(receive: ASGIReceiveCallable) -> Any:
    """Read the whole body; return the decoded JSON, or None if it is not JSON."""
    whole, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        whole, more = whole + message["body"], message["more_body"]
    try:
        return msgspec.json.decode(whole)
    except msgspec.DecodeError:
        return None


class _StoppableServer(uvicorn.Server):
    """uvicorn in a thread. It stops at once, where uvicorn itself looks ten times per second whether to stop."""

    def __init__(self, server: ModelServer) -> None:
        class CountedConnection(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                server.connections += 1
                super().connection_made(transport)

        # The log level hides the errors that uvicorn logs for answers that are cut on purpose.
        super().__init__(
            uvicorn.Config(
                server, http=CountedConnection, ws="none", lifespan="off", log_config=None, log_level="critical"
            )
        )
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self, listening: socket.socket) -> None:
        """Start the thread, and return when the server accepts connections."""
        self._thread = threading.Thread(target=self.run, args=([listening],), name="model-server", daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S), "the model server does not start"

    async def main_loop(self) -> None:
        await self.on_tick(0)  # Sets the headers Date and Server.
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._stop.wait()

    def call(self, act: Any) -> None:
        """Run a function in the server's event loop."""
        assert self._loop
        self._loop.call_soon_threadsafe(act)

    def stop(self) -> None:
        assert self._thread
        self.call(self._stop.set)
        self._thread.join(PATIENCE_S)
