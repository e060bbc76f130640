"""Runs the commands of the uploaded programs in one Daytona sandbox, and moves files.

Everything is idempotent: a repeated call after a lost answer has the effect of one. Uploads are verified by size and
SHA-256, and appear at their path only when they are complete.
"""

import asyncio
import hashlib
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from daytona import AsyncSandbox, SessionExecuteRequest

from muster.common.contract import encode
from muster.common.faults import Conflict, InvalidMessage, NotFound, Unavailable
from muster.sandbox_gateway.providers.daytona import process_program
from muster.sandbox_gateway.providers.daytona.answers import (
    DoneAnswer,
    EventsAnswer,
    FileAnswer,
    OutputAnswer,
    ProcessAnswer,
)
from muster.sandbox_gateway.providers.daytona.faults import translated
from muster.sandbox_gateway.providers.interface import ProcessSpec

CALL_S = 30.0
TRANSFER_S = 600
_CHUNK = 1 << 20
_STARTED_S = 20.0
_LOOK_AGAIN_S = 0.1
_NO_PROGRAM = (2, 127)
"""Exit codes of Python without the program's file, and of a shell without Python."""
_PROGRAMS = {name: Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("process_program", "file_program")}
_FILES = {name: f"{name}-{hashlib.sha256(body).hexdigest()[:12]}.py" for name, body in _PROGRAMS.items()}
"""The names of the programs in a sandbox, which change with their content."""
_FOLDERS = ("workspace", "state", "run", "home", "processes", "provided")


class DaytonaSandbox:
    """The inside of one started Daytona sandbox. `root` is the directory in which the gateway keeps everything."""

    def __init__(self, sandbox: AsyncSandbox, root: str, python: str) -> None:
        self.sandbox, self.root, self._python = sandbox, root, python

    def path(self, *names: str) -> str:
        """Return a path below `root`."""
        return "/".join((self.root, *names))

    async def prepare(self) -> None:
        """Make the directories, and upload the programs unless they are there."""
        if not (await self._ask(DoneAnswer, "make", *map(self.path, _FOLDERS), or_if_missing=DoneAnswer())).done:
            with translated("make a directory"):
                await self.sandbox.fs.create_folder(self.root, "700", request_timeout=CALL_S)
            for name, body in _PROGRAMS.items():
                with translated("upload a program of the gateway"):
                    await self.sandbox.fs.upload_file(body, self.path(_FILES[name]), timeout=TRANSFER_S)
            await self._ask(DoneAnswer, "make", *map(self.path, _FOLDERS))

    async def refresh(self) -> None:
        """Say that the sandbox is in use, so that Daytona does not stop it."""
        with translated(f"refresh the activity of {self.sandbox.name}"):
            await self.sandbox.refresh_activity(request_timeout=CALL_S)

    async def launch(self, process: ProcessSpec) -> ProcessAnswer:
        """Start a process unless one with its key was started before. Return its state."""
        if await self._new_session(process.key) or await self.status(process.key) is None:
            await self._start(process)
        try:
            async with asyncio.timeout(_STARTED_S):
                while True:
                    state = await self.status(process.key)
                    # Between the start of the supervisor and that of the process, the state has no pid.
                    if state is not None and (state.pid is not None or not state.running):
                        return state
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise Unavailable(f"the process {process.key} has not started within {_STARTED_S:g} s; try again") from None

    async def _start(self, process: ProcessSpec) -> None:
        order = {
            "argv": process.argv,
            "cwd": process.cwd,
            "env": process.env,
            "timeout_s": process.timeout_s,
            "limits": {
                "RLIMIT_NOFILE": process.limits.open_files,
                "RLIMIT_CPU": process.limits.cpu_s,
                # A process may reserve more writable memory than it uses.
                "RLIMIT_DATA": process.limits.memory_bytes and 2 * process.limits.memory_bytes,
                "RLIMIT_FSIZE": process.limits.file_bytes,
            },
        }
        body = encode(order)
        sha256 = hashlib.sha256(body).hexdigest()
        file = self.path("run", f"order-{sha256[:16]}-{secrets.token_hex(4)}.json")
        with translated("upload an order"):
            await self.sandbox.fs.upload_file(body, file, timeout=TRANSFER_S)
        command = f"{self._command('start', self._folder(process.key), file, sha256)} > /dev/null 2>&1"
        with translated("start a process"):
            request = SessionExecuteRequest(command=f"bash -c {shlex.quote(command)}", run_async=True)
            await self.sandbox.process.execute_session_command(_session(process.key), request, timeout=int(CALL_S))

    async def status(self, key: str) -> ProcessAnswer | None:
        """Return the state of a process, or None if it was never started."""
        state = await self._ask(ProcessAnswer, "status", self._folder(key))
        return state if state.known else None

    async def logs(self, key: str, offset: int, limit: int) -> tuple[bytes, int]:
        """Return a piece of a process's output, and the offset after it. Raises `NotFound`."""
        page = await self._ask(OutputAnswer, "logs", self._folder(key), str(offset), str(limit))
        if not page.known:
            raise NotFound(f"the sandbox has no process {key}")
        return page.body[:limit], page.next

    async def kill(self, key: str, grace_s: float) -> ProcessAnswer | None:
        """End a process with all that it started. Return its state, or None if it was never started."""
        state = await self._ask(ProcessAnswer, "kill", self._folder(key), str(grace_s), within_s=grace_s + CALL_S)
        if not state.known:
            return None
        try:
            with translated("delete a session"):
                await self.sandbox.process.delete_session(_session(key), request_timeout=CALL_S)
        except (NotFound, Unavailable):
            pass  # The process has ended, and the session ends with the sandbox.
        return state

    async def forget(self, key: str) -> None:
        """End a process, and remove the directory with its state and output. Does nothing if it was never started."""
        await self.kill(key, 0.0)
        await self._ask(DoneAnswer, "forget", self._folder(key))

    async def put(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a file, completely or not at all. Raises `Unavailable` if the upload was cut."""
        summed = hashlib.sha256()

        async def counted() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                summed.update(chunk)
                yield chunk

        part = self.path("run", f".{secrets.token_hex(8)}.part")
        with translated(f"upload {path.rpartition('/')[2]}"):
            await self.sandbox.fs.upload_file_stream(counted(), part, timeout=TRANSFER_S)
        placed = await self._ask(DoneAnswer, "place", part, summed.hexdigest(), path)
        if placed.unfit:
            raise InvalidMessage(
                f"{path[:200]!r} is a directory, or leads over a link or a file; name another path", field="$.path"
            )
        if not placed.done:
            raise Unavailable(f"the upload of {path.rpartition('/')[2]} was cut; the gateway tries again")

    async def fetch(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content of a regular file. Raises `NotFound`, or `Unavailable` if the download was cut."""
        told = await self._ask(FileAnswer, "describe", path)
        if not told.file:
            raise NotFound(f"there is no file {path[:200]!r} in this sandbox", field="$.path")
        summed = hashlib.sha256()
        with translated(f"download {path.rpartition('/')[2]}"):
            async for chunk in await self.sandbox.fs.download_file_stream(path, timeout=TRANSFER_S):
                summed.update(chunk)
                yield chunk
        if summed.hexdigest() != told.sha256:
            raise Unavailable(f"the download of {path.rpartition('/')[2]} was cut, or the file has changed; try again")

    async def discard(self, path: str) -> None:
        """Remove a file. Does nothing if there is none."""
        await self._ask(DoneAnswer, "discard", path)

    async def provide(self, name: str, source: Path) -> str:
        """Upload a directory of the gateway's host as one archive. Return the directory's path inside."""
        with tempfile.TemporaryFile() as packed:
            sha256 = await asyncio.to_thread(_pack, source, packed)
            target = self.path("provided", f"{sha256[:16]}-{name}")
            archive = self.path("run", f"{sha256[:16]}.tar")
            for _ in range(2):
                if (await self._ask(DoneAnswer, "unpack", archive, sha256, target, within_s=TRANSFER_S)).done:
                    return target
                packed.seek(0)
                with translated(f"upload {name}"):
                    await self.sandbox.fs.upload_file_stream(packed, archive, timeout=TRANSFER_S)
            if (await self._ask(DoneAnswer, "unpack", archive, sha256, target, within_s=TRANSFER_S)).done:
                return target
        raise Unavailable(f"the upload of {name} was cut; the gateway tries again")

    async def events(self) -> int | None:
        """Return the number of events that the worker has stored."""
        return (await self._ask(EventsAnswer, "events", self.path("state"))).events

    async def _new_session(self, key: str) -> bool:
        """Make the session of a process. Return whether it is new: one that exists was made by an earlier try."""
        try:
            with translated("create a session"):
                await self.sandbox.process.create_session(_session(key), request_timeout=CALL_S)
        except Conflict:
            return False
        return True

    async def _ask[T: msgspec.Struct](
        self, answers: type[T], command: str, *arguments: str, within_s: float = CALL_S, or_if_missing: T | None = None
    ) -> T:
        """Run a command of a program and return its answer, or `or_if_missing` if the program is not there.

        The agent has the same user as the program and may replace it, so an answer is checked as any other input.
        """
        with translated(f"run {command} in {self.sandbox.name}"):
            done = await self.sandbox.process.exec(self._command(command, *arguments), timeout=int(within_s))
        _, mark, answer = done.result.rpartition(process_program.MARK)
        if mark:
            try:
                return msgspec.json.decode(answer.partition("\n")[0], type=answers)
            except msgspec.MsgspecError as error:
                raise Unavailable(f"the sandbox's program gave a wrong answer to {command!r}: {error}") from None
        if or_if_missing is not None and done.exit_code in _NO_PROGRAM:
            return or_if_missing
        raise Unavailable(
            f"the sandbox's program ended with {done.exit_code} at {command!r}: {done.result.strip()[-200:]}; "
            "the image needs Python 3.12 (MUSTER_DAYTONA_PYTHON)"
        )

    def _command(self, command: str, *arguments: str) -> str:
        program = "process_program" if command in process_program.COMMANDS else "file_program"
        file = self.path(_FILES[program])
        return shlex.join([self._python, "-I", file, command, *arguments])

    def _folder(self, key: str) -> str:
        return self.path("processes", key)


def _session(key: str) -> str:
    return f"muster-{key}"


def _pack(source: Path, packed: Any) -> str:  # noqa: ANN401 - a temporary file
    """Write a directory into an archive. Return the archive's SHA-256, which depends on names and content only."""
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(source.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(source)), recursive=False, filter=_neutral)
    packed.seek(0)
    return hashlib.file_digest(packed, "sha256").hexdigest()


def _neutral(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member
