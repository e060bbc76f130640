"""A complete stack that several tests share and must not damage, with test secrets and short heartbeat intervals."""

import asyncio
import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from muster.cli.demo.cases import SCRIPTS
from tests.support.identity_provider import AUDIENCE, IdentityProvider, identity_provider
from tests.support.stack import RunningStack, running_stack

QUICK_BEATS = {
    "MUSTER_BEAT_RUNNING_S": "0.5",
    "MUSTER_BEAT_IDLE_S": "0.5",
    "MUSTER_BEAT_TTL_RUNNING_S": "4",
    "MUSTER_BEAT_TTL_IDLE_S": "4",
}


@dataclass
class WholeStack:
    """A running stack and the settings with which it was started."""

    stack: RunningStack
    packages: Path
    """Directory in which the stack finds agent packages."""
    repositories: Path
    """Directory of the repositories that sandboxes may clone."""
    provider_key: str
    """Key of the model provider, which only the gateway may know."""
    keys_sent: set[str]
    """Keys that the model provider received in requests."""
    identity: IdentityProvider


@contextmanager
def talkative_provider() -> Generator[tuple[str, set[str]]]:
    """Run a model provider that refuses each request and repeats the key in its error, as real ones do.

    Yields the provider's URL and the set of received keys."""
    sent: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            key = self.headers.get("authorization", "").removeprefix("Bearer ")
            sent.add(key)
            body = msgspec.json.encode({"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid"}})
            self.send_response(401)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()
        thread.join()


@contextmanager
def whole_stack(home: Path) -> Generator[WholeStack]:
    """Start a stack, yield it, and stop it at the end, in an event loop that runs only for the start and the stop."""
    packages, repositories = home / "packages", home / "repositories"
    packages.mkdir()
    repositories.mkdir()
    key = f"sk-proj-{secrets.token_hex(20)}"
    with ExitStack() as surroundings, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        url, sent = surroundings.enter_context(talkative_provider())
        identity = surroundings.enter_context(identity_provider())
        env = {
            "OPENAI_API_KEY": key,
            "OPENAI_API_BASE": url,
            "MUSTER_OIDC_ISSUER": identity.issuer,
            "MUSTER_OIDC_AUDIENCE": AUDIENCE,
            "MUSTER_LOG_LEVEL": "DEBUG",
            **QUICK_BEATS,
        }
        options = ("--packages", str(packages), "--scripts", str(SCRIPTS), "--repo-root", str(repositories))
        opening = running_stack(home, *options, env=env)
        stack = runner.run(opening.__aenter__())
        try:
            yield WholeStack(stack, packages, repositories, key, sent, identity)
        finally:
            runner.run(opening.__aexit__(None, None, None))
