"""Handles requests about the content of a sandbox: files, output of the worker, and recorded changes."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from weakref import WeakValueDictionary

from muster.common.contract import token
from muster.common.contracts.sandbox_files import (
    LARGEST_FILE,
    LARGEST_PART,
    DiffSandbox,
    FetchFile,
    FilePart,
    PutFile,
    ReadOutput,
    SandboxDiff,
    StoredPart,
    WorkerOutputPage,
)
from muster.common.faults import InvalidMessage, NotFound
from muster.sandbox_gateway.files.adapters import WorkspaceRecords
from muster.sandbox_gateway.files.domain import path_in, step_at, transfer_key
from muster.sandbox_gateway.files.store import FileTransfers, too_large
from muster.sandbox_gateway.providers.interface import Provider
from muster.sandbox_gateway.providers.registry import LocatedSandbox
from muster.sandbox_gateway.sandboxes.domain.tokens import redacted, whole_lines
from muster.sandbox_gateway.sandboxes.store import SandboxStore

ProviderOf = Callable[[LocatedSandbox], Awaitable[Provider]]
FILE_S = 60.0
"""Longest time in seconds of one request: the last part of an upload sends the whole file to the provider."""


class FileRequests:
    """Transfers files of workspaces, and reads the output of workers and the records of workspaces.

    Each method raises `NotFound` for a sandbox without the requested content.
    """

    def __init__(self, sandboxes: SandboxStore, provider_of: ProviderOf) -> None:
        """Set the parts. `provider_of` starts a sandbox that was stopped at its provider, and returns the provider."""
        self._sandboxes, self._provider_of = sandboxes, provider_of
        self._reading = WeakValueDictionary[str, asyncio.Lock]()
        """Sandboxes whose record is being read, so that a sandbox runs at most one git for all readers."""
        self._writing = WeakValueDictionary[str, asyncio.Lock]()

    async def put(self, asked: PutFile) -> StoredPart:
        """Store a part of a file, and with the last part write the file into the workspace.

        A part that arrives again is answered as before, also the last one.
        """
        provider = await self._provider(asked.sandbox_id)
        layout = await provider.layout(asked.sandbox_id)
        path = path_in(layout.workspace, asked.path)
        if asked.last and asked.offset and asked.sha256 is None:
            raise InvalidMessage(
                "the last part of a file of several parts needs the SHA-256 of the whole file", field="$.sha256"
            )
        transfers = FileTransfers(provider.staging(asked.sandbox_id), "uploads")
        key = transfer_key(path, asked.transfer_id)
        # The same part may arrive again while the first one is still being written into the workspace.
        async with self._writing.setdefault(f"{asked.sandbox_id} {key}", asyncio.Lock()):
            if asked.last and asked.sha256 and await asyncio.to_thread(transfers.was_completed, key, asked.sha256):
                return StoredPart(next_offset=asked.offset + len(asked.body), complete=True)
            next_offset = await asyncio.to_thread(transfers.append, key, asked.offset, asked.body)
            if not asked.last:
                return StoredPart(next_offset=next_offset)
            await asyncio.to_thread(transfers.check, key, asked.sha256)
            await provider.put(asked.sandbox_id, path, transfers.chunks(key))
            await asyncio.to_thread(transfers.complete, key, asked.sha256)
            return StoredPart(next_offset=next_offset, complete=True)

    async def fetch(self, asked: FetchFile) -> FilePart:
        """Return a part of a file. The first part copies a file of several parts to the gateway's host."""
        provider = await self._provider(asked.sandbox_id)
        layout = await provider.layout(asked.sandbox_id)
        path = path_in(layout.workspace, asked.path)
        transfers = FileTransfers(provider.staging(asked.sandbox_id), "copies")
        key = transfer_key(path, asked.transfer_id) if asked.transfer_id else None
        if asked.offset == 0:
            whole = await self._copy(provider.fetch(asked.sandbox_id, path), key, transfers)
            if whole is not None:
                return FilePart(body=whole, next_offset=len(whole), size=len(whole), last=True)
        if key is None:
            raise _without_id()
        body, size = await asyncio.to_thread(transfers.part, key, asked.offset)
        next_offset = asked.offset + len(body)
        if next_offset >= size:
            await asyncio.to_thread(transfers.remove, key)
        return FilePart(body=body, next_offset=next_offset, size=size, last=next_offset >= size)

    async def output(self, asked: ReadOutput) -> WorkerOutputPage:
        """Return whole lines of the worker's output, without tokens."""
        provider = await self._provider(asked.sandbox_id)
        process = await provider.poll(asked.sandbox_id)  # Before the output, so that nothing follows an ended worker.
        if process is None:
            raise NotFound("this sandbox has no worker yet; try again", field="$.sandbox_id")
        page = await provider.logs(asked.sandbox_id, offset=asked.offset, limit=asked.limit)
        full = len(page.body) >= asked.limit
        ended = (not process.running and not full) or (full and b"\n" not in page.body)
        shown = whole_lines(page.body, ended=ended)
        start = page.next_offset - len(page.body)
        running = process.running or full
        return WorkerOutputPage(
            text=redacted(shown.decode(errors="replace")), next_offset=start + len(shown), running=running
        )

    async def diff(self, asked: DiffSandbox) -> SandboxDiff:
        """Return the recorded changes of the workspace until an event."""
        provider = await self._provider(asked.sandbox_id)
        record = WorkspaceRecords(provider, asked.sandbox_id, await provider.layout(asked.sandbox_id))
        async with self._reading.setdefault(asked.sandbox_id, asyncio.Lock()):
            step = step_at(await record.steps(), asked.at)
            if step is None:
                return SandboxDiff(sandbox_id=asked.sandbox_id, seq=0, commit=None, diff="")
            seq, commit = step
            diff, truncated = await record.diff(commit)
        return SandboxDiff(sandbox_id=asked.sandbox_id, seq=seq, commit=commit, diff=diff, truncated=truncated)

    async def _copy(self, chunks: AsyncIterator[bytes], key: str | None, transfers: FileTransfers) -> bytes | None:
        """Return the whole content of a file of one part; otherwise copy the file and return None.

        A copy gets its name only when it is complete, because the same request may be repeated before it has ended.
        """
        held, offset, fresh = bytearray(), 0, secrets.token_hex(16)
        try:
            async for chunk in chunks:
                held += chunk
                if offset + len(held) > LARGEST_FILE:
                    raise too_large()
                if len(held) > LARGEST_PART:
                    if key is None:
                        raise _without_id()
                    offset = await asyncio.to_thread(transfers.append, fresh, offset, bytes(held))
                    held.clear()
            if key is None or offset == 0:
                return bytes(held)
            await asyncio.to_thread(transfers.append, fresh, offset, bytes(held))
            await asyncio.to_thread(transfers.replace, key, fresh)
        finally:
            transfers.remove(fresh)
        return None

    async def _provider(self, sandbox_id: str) -> Provider:
        record = await self._sandboxes.get(token(sandbox_id, "sandbox_id"))
        if record is None:
            raise NotFound(f"there is no sandbox {sandbox_id}", field="$.sandbox_id")
        if record.state == "deleted":
            raise NotFound(f"the sandbox {sandbox_id} was deleted with its workspace", field="$.sandbox_id")
        return await self._provider_of(record)


def _without_id() -> InvalidMessage:
    return InvalidMessage(
        f"the file has more than {LARGEST_PART >> 10} KiB; read it in parts, each with the same transfer_id",
        field="$.transfer_id",
    )
