"""Gives the programs of a sandbox an HTTP proxy on 127.0.0.1, which needs no credentials.

The relay forwards each connection to the gateway's proxy, and adds the sandbox's token to the request. So the variables
`HTTP_PROXY` and `HTTPS_PROXY`, which every program can read, contain no secret. A connection carries one request, so
only the head of the first request is changed.
"""

import asyncio
import os
import threading
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager

from muster.agent.loopback_proxy import forwarded_port

_HEAD_S = 15.0
_NOT_PROXIED = "localhost,127.0.0.1,::1"
"""Servers of the sandbox itself, such as the relay of the model's endpoint, are reached directly."""


def proxy_variables(port: int) -> Mapping[str, str]:
    """Return the environment variables with which programs use the proxy at a port of 127.0.0.1.

    curl reads `http_proxy` only in lower case, and other programs read the names in capitals.
    `NODE_USE_ENV_PROXY` lets the `fetch` of Node.js 24 and later use the proxy.
    """
    url = f"http://127.0.0.1:{port}"
    named = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": _NOT_PROXIED}
    return {**named, **{name.lower(): value for name, value in named.items()}, "NODE_USE_ENV_PROXY": "1"}


@contextmanager
def proxy_relay(egress_socket: str | None, token: str) -> Generator[None]:
    """Run the relay while the block runs, and set its variables in this process's environment.

    The relay has its own thread, so that an agent which blocks its event loop while a program runs does not block the
    program. Does nothing if `egress_socket` is None, because then the sandbox has no proxy.
    """
    if egress_socket is None:
        yield
        return
    relay = RelayThread(egress_socket, token)
    variables = proxy_variables(relay.started())
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        relay.stop()


class RelayThread(threading.Thread):
    """The thread that forwards connections from a free port of 127.0.0.1 to the gateway's proxy."""

    def __init__(self, egress_socket: str, token: str) -> None:
        super().__init__(name="proxy-relay", daemon=True)
        self._socket = egress_socket
        self._credential = f"Proxy-Authorization: Bearer {token}\r\n".encode()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._port = Future[int]()

    def started(self) -> int:
        """Start the thread, and return the port when the relay accepts connections. Raises `OSError`."""
        self.start()
        return self._port.result()

    def stop(self) -> None:
        """Close the relay and its connections, and wait for the end of the thread."""
        self._loop.call_soon_threadsafe(self._end.set)
        self.join()

    def run(self) -> None:
        """Serve until `stop` is called."""
        try:
            with closing(self._loop):
                self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._port.set_exception(error)

    async def _serve(self) -> None:
        async with forwarded_port(self._socket, self._with_credential) as port:
            self._port.set_result(port)
            await self._end.wait()

    async def _with_credential(self, reader: asyncio.StreamReader) -> bytes:
        """Return the first line of a request, followed by the header with the token; nothing if there is no line."""
        try:
            async with asyncio.timeout(_HEAD_S):
                return await reader.readuntil(b"\n") + self._credential
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return b""
