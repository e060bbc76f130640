"""Runs git for the gateway: without configuration, hooks and prompts, with limits, and with credentials only in memory.

A credential reaches git in the environment of the one process that needs it, never in its arguments and never in a
file. The output of git is returned without the credential.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from muster.common.faults import Fault, Unavailable

_LOOK_EVERY_S = 0.2
_CHUNK_BYTES = 64 << 10
MOST_OUTPUT_BYTES = 64 << 20
_NOWHERE = "/nonexistent"
"""The home directory of git, so that it reads no `.netrc` and no SSH configuration of a user."""
_TOLERATED = (
    "zeroPaddedFilemode",
    "missingSpaceBeforeDate",
    "badTimezone",
    "missingSpaceBeforeEmail",
    "badDateOverflow",
)
"""Old, harmless mistakes in the objects of many public repositories."""
SAFE: Final[Mapping[str, str]] = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.bigFileThreshold": "16m",
    "credential.helper": "",
    "fetch.fsckObjects": "true",
    "fetch.unpackLimit": "1",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "protocol.allow": "never",
    "safe.directory": "*",
    "submodule.recurse": "false",
    "transfer.bundleURI": "false",
    **{f"fetch.fsck.{name}": "ignore" for name in _TOLERATED},
}
"""The configuration of each git process. `core.bigFileThreshold` keeps large files out of git's memory."""


class GitAnswer(NamedTuple):
    """The result of a git process: exit code, output and error output."""

    code: int
    output: bytes
    said: str

    @property
    def text(self) -> str:
        """The output as text without blanks at its ends."""
        return self.output.decode(errors="replace").strip()


class GitProcess:
    """Starts git with one configuration, one environment and one set of secrets that its output must not contain."""

    def __init__(
        self,
        *,
        config: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        deadline_s: float = 60.0,
    ) -> None:
        self._env, self._secrets, self._deadline_s = dict(env or {}), secrets, deadline_s
        self._config = {**SAFE, **(config or {})}

    async def run(
        self,
        *args: str,
        folder: Path | None = None,
        index: Path | None = None,
        sent: bytes | None = None,
        env: Mapping[str, str] | None = None,
        look: Callable[[], None] | None = None,
        keep_open: Sequence[int] = (),
    ) -> GitAnswer:
        """Run git until it ends, and return its answer.

        `look` is called in a thread five times a second, and may raise to end git. `keep_open` are file descriptors of
        locks, which stay locked until git has ended. Raises `Unavailable` if git takes longer than the deadline.
        """
        process = await asyncio.create_subprocess_exec(
            "git",
            *([] if folder is None else [f"--git-dir={folder}"]),
            *args,
            cwd="/" if folder is None else folder,
            env=self._environment() | ({"GIT_INDEX_FILE": str(index)} if index else {}) | dict(env or {}),
            stdin=asyncio.subprocess.DEVNULL if sent is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=keep_open,
        )
        try:
            async with asyncio.timeout(self._deadline_s):
                output, said = await _talk(process, sent, look)
        except TimeoutError:
            raise Unavailable(f"git {args[0]} took longer than {self._deadline_s:g} s and was ended") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return GitAnswer(process.returncode or 0, output, self._redacted(said.decode(errors="replace")))

    def _environment(self) -> dict[str, str]:
        config = list(self._config.items())
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": _NOWHERE,
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_COUNT": str(len(config)),
            **{f"GIT_CONFIG_KEY_{number}": name for number, (name, _) in enumerate(config)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, (_, value) in enumerate(config)},
            **self._env,
        }

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


async def _talk(
    process: asyncio.subprocess.Process, sent: bytes | None, look: Callable[[], None] | None
) -> tuple[bytes, bytes]:
    """Return the output and the error output of a process that has ended. Raises the error that `look` raises."""
    try:
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(_look_again(look)) if look else None
            output = tasks.create_task(_read(process.stdout))
            said = tasks.create_task(_read(process.stderr))
            if sent is not None:
                await _write(process, sent)
            await process.wait()
            if looking:
                looking.cancel()
    except* (Fault, OSError) as errors:
        raise errors.exceptions[0] from None
    return output.result(), said.result()


async def _look_again(look: Callable[[], None]) -> None:
    while True:
        await asyncio.to_thread(look)
        await asyncio.sleep(_LOOK_EVERY_S)  # The disk does not announce how much git has written.


async def _read(pipe: asyncio.StreamReader | None) -> bytes:
    kept = bytearray()
    while pipe and (chunk := await pipe.read(_CHUNK_BYTES)):
        kept += chunk
        if len(kept) > MOST_OUTPUT_BYTES:
            raise Unavailable(f"git wrote over {MOST_OUTPUT_BYTES >> 20} MiB of output and was ended")
    return bytes(kept)


async def _write(process: asyncio.subprocess.Process, sent: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(sent)
        await process.stdin.drain()
    process.stdin.close()
