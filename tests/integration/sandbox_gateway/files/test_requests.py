"""Transfers of several callers stay apart, and reading a diff leaves nothing behind. Shim, provider and NATS are real."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.contracts.sandbox_files import LARGEST_DIFF, LARGEST_PART, DiffSandbox, FetchFile, PutFile
from muster.common.faults import Conflict, InvalidMessage
from muster.sandbox_gateway.files.handlers import FileRequests
from muster.sandbox_gateway.providers.interface import SandboxLayout, SandboxSpec
from muster.sandbox_gateway.providers.registry import Providers
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from muster.sandbox_gateway.sandboxes.handlers.resumption import SandboxResumption
from muster.sandbox_gateway.sandboxes.store import SandboxStore
from muster.shim.client import ShimClient
from tests.support.local_sandboxes import HOST, LocalWorkers, local_sandboxes
from tests.support.patience import PATIENCE_S
from tests.support.sandbox_commands import create_command
from tests.support.shim import running_shim

LARGE = 2 * LARGEST_PART


@dataclass(frozen=True)
class OneSandbox:
    """The requests about one sandbox, its directories, and the shim that has its processes."""

    sandbox_id: str
    requests: FileRequests
    layout: SandboxLayout
    shim: ShimClient

    async def fetch(self, path: str, offset: int, transfer_id: str | None = "t1") -> bytes:
        asked = FetchFile(sandbox_id=self.sandbox_id, path=path, transfer_id=transfer_id, offset=offset)
        return (await self.requests.fetch(asked)).body

    async def put(self, path: str, offset: int, body: bytes, *, sha256: str | None = None, last: bool = False) -> bool:
        asked = PutFile(
            sandbox_id=self.sandbox_id, path=path, transfer_id="t1", offset=offset, body=body, last=last, sha256=sha256
        )
        return (await self.requests.put(asked)).complete

    def file(self, path: str) -> Path:
        return Path(self.layout.workspace) / path


@pytest.fixture
async def one(tmp_path: Path, nats_url: str) -> AsyncGenerator[OneSandbox]:
    create = create_command()
    (tmp_path / "gate").mkdir()
    with running_shim("plain") as running:
        async with open_bus(nats_url, "sandbox_gateway") as bus, ShimClient(running.socket) as shim:
            await shim.probe(deadline_s=PATIENCE_S)
            local = local_sandboxes(shim, tmp_path / "sandboxes", gateway_socket=tmp_path / "gate" / "gateway.sock")
            sandboxes = SandboxStore(bus)
            await sandboxes.ensure()
            await sandboxes.add(SandboxRecord(create=create, host=HOST, provider="local", created_at=utc_now()))
            layout = await local.ensure(SandboxSpec(sandbox_id=create.sandbox_id))
            resumption = SandboxResumption(
                sandboxes, Providers([local]), LocalWorkers(local, tmp_path).workers, utc_now
            )
            yield OneSandbox(create.sandbox_id, FileRequests(sandboxes, resumption.provider_of), layout, shim)


async def test_readers_of_two_files_with_one_transfer_id_get_their_own_parts(one: OneSandbox) -> None:
    for name in ("a", "b"):
        one.file(name).write_bytes(name.encode() * LARGE)
    first = await one.fetch("a", 0)
    await one.fetch("b", 0)
    assert first + await one.fetch("a", len(first)) == b"a" * LARGE


async def test_reader_with_the_transfer_id_of_an_upload_does_not_change_it(one: OneSandbox) -> None:
    one.file("up").write_bytes(b"before" * LARGEST_PART)
    whole = b"u" * LARGEST_PART + b"v" * 1_000
    await one.put("up", 0, whole[:LARGEST_PART])
    await one.fetch("up", 0)
    digest = hashlib.sha256(whole).hexdigest()
    assert await one.put("up", LARGEST_PART, whole[LARGEST_PART:], sha256=digest, last=True)
    assert one.file("up").read_bytes() == whole


async def test_repeated_last_part_of_an_upload_is_answered_as_before(one: OneSandbox) -> None:
    whole = b"u" * LARGEST_PART + b"v" * 1_000
    digest = hashlib.sha256(whole).hexdigest()
    await one.put("up", 0, whole[:LARGEST_PART])
    last = [one.put("up", LARGEST_PART, whole[LARGEST_PART:], sha256=digest, last=True) for _ in range(2)]
    assert await asyncio.gather(*last) == [True, True]
    one.file("up").write_bytes(b"changed by the agent")
    assert await one.put("up", LARGEST_PART, whole[LARGEST_PART:], sha256=digest, last=True)
    assert one.file("up").read_bytes() == b"changed by the agent"
    with pytest.raises(Conflict):
        await one.put("up", LARGEST_PART, b"other", sha256="0" * 64, last=True)


async def test_large_file_is_read_only_with_a_transfer_id_and_written_only_with_a_digest(one: OneSandbox) -> None:
    one.file("a").write_bytes(b"a" * LARGE)
    one.file("small").write_bytes(b"small")
    assert await one.fetch("small", 0, None) == b"small"
    for offset in (0, LARGEST_PART):
        with pytest.raises(InvalidMessage) as refusal:
            await one.fetch("a", offset, None)
        assert refusal.value.field == "$.transfer_id"
    await one.put("up", 0, b"first")
    with pytest.raises(InvalidMessage) as refusal:
        await one.put("up", 5, b"second", last=True)
    assert refusal.value.field == "$.sha256"
    assert not one.file("up").exists()


async def test_diff_is_cut_at_its_end_and_leaves_no_process(one: OneSandbox) -> None:
    record = Path(one.layout.state_dir) / "record.git"

    def git(*args: str, told: bytes = b"") -> str:
        done = subprocess.run(["git", f"--git-dir={record}", *args], input=told, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def committed(body: bytes) -> str:
        blob = git("hash-object", "-w", "--stdin", told=body)
        tree = git("mktree", told=f"100644 blob {blob}\tfile\n".encode())
        return git("-c", "user.name=n", "-c", "user.email=e@e.invalid", "commit-tree", tree, "-m", "x")

    git("init", "-q", "--bare")
    git("update-ref", "refs/muster/base", committed(b""))
    commit = committed(os.urandom(5_000_000).hex().encode())  # More than the shim keeps of one output.
    git("update-ref", "refs/muster/steps/3", commit)
    asked = DiffSandbox(sandbox_id=one.sandbox_id)
    found = await one.requests.diff(asked)
    assert (found.seq, found.commit, found.truncated, len(found.diff)) == (3, commit, True, LARGEST_DIFF)
    assert found.diff.startswith("diff --git a/file b/file\n")
    git("update-ref", "refs/muster/steps/4", committed(b"small\n"))
    assert (await one.requests.diff(asked)).diff.endswith("+small\n")
    assert await one.shim.list() == []
