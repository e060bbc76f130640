"""Invariant I6: no secret of a working and failing stack is in any file, log or message that was written."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore
import msgspec
import pytest

from muster.common.bus.connection import Incoming, open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.bus.streams import jetstream
from muster.common.faults import Fault
from muster.embedded.sql import connected
from tests.support.caller import Caller, Told
from tests.support.fleet import Fleet
from tests.support.stack import RunningStack, processes_of
from tests.support.whole_stack import WholeStack

HOLDER = ["sandbox_gateway"]
"""The part that has the keys of model providers and the tokens of sandboxes."""
EVERY = [*HOLDER, "postgres", "management_api", "nats", "agent_manager", "guardian"]
EXEMPT = ("secrets.json", "ready.json", "identity/")
"""Where secrets live: files that only their owner can read (`ready.json` is the named exception)."""


class Written:
    """All texts that were written anywhere, with their places."""

    def __init__(self) -> None:
        self.places: list[tuple[str, bytes]] = []

    def add(self, place: str, *parts: bytes | str) -> None:
        for part in parts:
            self.places.append((place, part.encode() if isinstance(part, str) else part))

    def holding(self, canaries: dict[str, str]) -> list[str]:
        """Return `<canary> in <place>` for each secret that was found."""
        sought = [(name, value.encode()) for name, value in canaries.items()]
        found = {f"{name} in {place}" for place, text in self.places for name, value in sought if value in text}
        return sorted(found)


def planted(stack: RunningStack) -> dict[str, str]:
    """Return the secrets that the stack created, by name."""
    made = msgspec.json.decode((stack.data_dir / "secrets.json").read_bytes(), type=dict[str, str])
    made["token_keys"] = made["token_keys"].partition(":")[2]
    for path in sorted((stack.data_dir / "identity").rglob("*")):
        if path.is_file():
            seeds = [word for word in path.read_text().split() if word[:1] == "S" and len(word) == 58]
            made |= {f"{path.relative_to(stack.data_dir)} {n}": seed for n, seed in enumerate(seeds)}
    return made


@asynccontextmanager
async def listening(stack: RunningStack, written: Written) -> AsyncGenerator[None]:
    """Record all messages on the bus with their headers."""

    async def hear(message: Incoming) -> None:
        headers = msgspec.json.encode(message.headers or {})
        written.add(f"the bus, on {message.subject[:60]}", message.subject, message.data, headers)

    async with open_bus(stack.nats_url, "test-ear", credentials=stack.nats_credentials) as bus:
        await bus.subscribe(">", hear)
        await bus.flush()
        yield


async def at_work(stack: RunningStack, callers: list[Caller], written: Written) -> None:
    """Send valid and invalid requests of users, and record the responses."""
    admin, fleet = callers[0], Fleet(stack)

    async def ask(caller: Caller, method: str, path: str, body: object = None, **headers: str) -> Told:
        told = await caller.ask(method, path, body, **headers)
        written.add(f"the answer to {method} {path[:60]}", told.body, str(told.headers))
        return told

    steps = [{"act": "make"}, {"ask": {"text": "next?", "model": "openai/gpt-4o-mini"}}, {"finish": "success"}]
    asking = await fleet.submit(metadata={"steps": steps}, model="openai/gpt-4o-mini", timeout_s=25)
    quick = await fleet.submit()
    for caller in callers:
        for method, path, body in (
            ("GET", "/api/v1/whoami", None),
            ("GET", "/api/v1/keys", None),
            ("GET", "/api/v1/users", None),
            ("GET", "/api/v1/audit", None),
            ("GET", "/api/health", None),
            ("POST", "/api/v1/tasks", {"objective": 7}),
            ("POST", f"/api/v1/tasks/{quick.task_id}/steer", {"text": "look"}),
            ("GET", f"/api/v1/tasks/{quick.task_id}/events?follow=false", None),
            ("POST", "/api/v1/agents", {"name": "canary", "package": "echo", "mode": "process"}),
            ("POST", "/api/v1/agents", {"name": "x", "package": "nothing"}),
            ("DELETE", "/api/v1/nowhere", None),
        ):
            await ask(caller, method, path, body)
    for caller in callers:  # The path contains a credential instead of an id; only the caller may receive it.
        await caller.ask("DELETE", f"/api/v1/keys/{caller.credential}")
    agents = (await admin.done("GET", "/api/v1/agents"))["agents"]
    mine = next((agent["agent_id"] for agent in agents if agent["name"] == "canary"), "none")
    for verb, body in (("start", None), ("messages", {"text": "hello"}), ("restart", None), ("stop", None)):
        await ask(admin, "POST", f"/api/v1/agents/{mine}/{verb}", body)
    await ask(admin, "GET", f"/api/v1/agents/{mine}/logs")
    await fleet.ended(quick.task_id)
    await fleet.until(asking.task_id, lambda task: bool(task.attempts and task.attempts[-1].model_calls), wait_s=90)


async def in_trouble(stack: RunningStack, parts: list[str], callers: list[Caller], written: Written) -> None:
    """Kill each of these processes once, and send requests during its outage."""
    for part in parts:
        dying = asyncio.gather(*(_asked_through(caller, written) for caller in callers))
        await stack.kill(part, wait_s=60)
        await dying


async def _asked_through(caller: Caller, written: Written) -> None:
    for path in ("/api/v1/users", "/api/v1/tasks", "/api/v1/agents", "/api/v1/sandboxes"):
        with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            told = await caller.ask("GET", path)
            written.add(f"the answer to {path} in trouble", told.body, str(told.headers))


async def stored(stack: RunningStack, written: Written) -> None:
    """Record every message of every stream, every row of every table, and every file."""
    async with open_bus(stack.nats_url, "test-reader", credentials=stack.nats_credentials) as bus:
        names = msgspec.json.decode(await jetstream(bus, "STREAM.NAMES"))["streams"]
        assert {"AUDIT", "TASKS"} <= set(names)
        for name in names:
            with suppress(Fault):  # A stream that cannot be read directly was recorded on the bus.
                async for one in MessageStore(bus).replay(name, ">"):
                    written.add(f"stream {name}", one.subject, one.body)
    tables = """SELECT array_agg(table_schema || '.' || table_name) FROM information_schema.tables
                WHERE table_schema IN ('api', 'manager')"""
    async with connected(stack.database_url) as database:
        for table in await database.fetchval(tables):
            rows = await database.fetchval(f"SELECT array_agg(t::text) FROM {table} t")
            written.add(f"table {table}", *(rows or ()))
            for column in await _bytes_of(database, table):
                told = await database.fetchval(f"SELECT array_agg({column}) FROM {table}")
                written.add(f"table {table}.{column}", *(value for value in told or () if value))
    for path in sorted(stack.data_dir.rglob("*")):
        name = str(path.relative_to(stack.data_dir))
        if path.is_file() and not path.is_symlink() and not name.startswith(EXEMPT):
            with suppress(FileNotFoundError):
                written.add(f"file {name}", path.read_bytes())
    written.add("what `muster up` says", (stack.data_dir.parent / "up.log").read_bytes())


async def _bytes_of(database: Any, table: str) -> list[str]:
    schema, name = table.split(".")
    query = """SELECT array_agg(column_name::text) FROM information_schema.columns
               WHERE table_schema = $1 AND table_name = $2 AND data_type = 'bytea'"""
    return await database.fetchval(query, schema, name) or []


def running(stack: RunningStack, written: Written) -> None:
    """Record the command line of each process, and the environment of untrusted processes."""
    shim = stack.pids["shim"]
    for pid, words in processes_of(stack.data_dir).items():
        written.add(f"the arguments of {words[:60]}", words)
        if pid == shim or "muster.agents" in words:
            with suppress(OSError):  # The process has ended, or belongs to another user.
                written.add(f"the environment of {words[:60]}", Path(f"/proc/{pid}/environ").read_bytes())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "dying", [HOLDER, pytest.param(EVERY, marks=pytest.mark.stress)], ids=["one dies", "each dies"]
)
async def test_no_secret_is_in_anything_that_is_written(whole: WholeStack, dying: list[str]) -> None:
    stack, provider, written = whole.stack, whole.identity, Written()
    canaries = {"provider key": whole.provider_key}
    canaries |= planted(stack)
    admin = Caller(stack.api_url, stack.admin_key)
    key = await admin.issue("operator")
    revoked = await admin.issue("operator", scopes=["tasks:read"])
    await admin.done("DELETE", f"/api/v1/keys/{revoked.key_id}")
    wish, once = {"name": "repeatable", "role": "viewer"}, secrets.token_hex(8)
    repeatable = await admin.done("POST", "/api/v1/keys", wish, idempotency_key=once)
    strangers = {
        "a stranger's key": f"mk_{'0' * 26}_{secrets.token_hex(21)}x",
        "a password": secrets.token_hex(20),
    }
    tokens = {"token": provider.token(roles="viewer"), "bad token": provider.token(roles="admin", aud="other")}
    canaries |= {"user's key": str(key.credential)[-43:], "revoked key": str(revoked.credential)[-43:]}
    canaries["key issued under an idempotency key"] = repeatable["key"][-43:]
    canaries |= strangers | {name: token.split(".")[2] for name, token in tokens.items()}
    others = [Caller(stack.api_url, one) for one in (*strangers.values(), *tokens.values())]
    async with listening(stack, written):
        await at_work(stack, [admin, key, revoked, *others], written)
        running(stack, written)
        await in_trouble(stack, dying, [admin, key, others[0], others[2]], written)
    await stored(stack, written)

    assert whole.keys_sent == {canaries["provider key"]}
    assert len(canaries) > 12
    assert len(written.places) > 500
    marker = b"user:admin"  # These texts must be found, which shows that the search works.
    for kind in ("the bus", "stream AUDIT", "table api.audit", "file logs"):
        assert any(place.startswith(kind) for place, _ in written.places), kind
    assert any(marker in text for place, text in written.places if place == "table api.audit")
    assert written.holding(canaries) == []
