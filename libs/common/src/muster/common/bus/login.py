"""Authenticates a NATS connection. The credentials are read again at every login, so that renewed ones are used."""

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import structlog
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from muster.common.bus.plain_headers import PlainHeaders
from muster.common.clock import Clock
from muster.common.faults import InvalidMessage, Unavailable
from muster.common.nats_identity.credentials import Credentials, read_credentials
from muster.common.supervision import supervise
from muster.common.tls import TlsFiles

log = structlog.get_logger()

CredentialsSource = Path | str | Callable[[], str]
"""The path of a creds file, its text, or a function that returns such a text."""

RENEWED_AT = 2 / 3
"""Renew after this share of the credentials' lifetime.

By then, the writer of a credentials file should have renewed it.
"""
_LOOKS_PER_LIFE = 30
_REFUSALS = ("authorization violation", "authentication")


class Login:
    """The credentials that a connection uses. Raises `InvalidMessage` or `OSError` if no valid ones can be read."""

    def __init__(self, source: CredentialsSource) -> None:
        self._source = source
        self._in_use = read_credentials(self._text())

    @property
    def name(self) -> str:
        """Return the name in the credentials, which is part of subjects."""
        return self._in_use.name

    @property
    def public(self) -> str:
        """Return the public key, by which the server identifies the user."""
        return self._in_use.key.public

    def sign(self, nonce: str) -> bytes:
        """Read the latest credentials and sign the server's nonce.

        nats-py calls `sign` before `token` at every login.
        """
        self._in_use = self.latest()
        return base64.b64encode(self._in_use.key.sign(nonce.encode()))

    def token(self) -> bytearray:
        """Return the token of the credentials that `sign` read last."""
        return bytearray(self._in_use.token.encode())

    def latest(self) -> Credentials:
        """Return the credentials from the source, or the credentials in use if the source cannot be read."""
        try:
            return read_credentials(self._text())
        except (OSError, InvalidMessage) as error:  # An error raised here would permanently end nats-py's reconnecting.
            log.warning("credentials file not readable, previous ones used", error=str(error))
            return self._in_use

    def renewed(self) -> bool:
        """Return whether the source contains newer credentials than those in use."""
        return self.latest().token != self._in_use.token

    def due_in_s(self, now: Clock) -> float | None:
        """Return the seconds until the credentials must be renewed, or None if they do not expire."""
        claims = self._in_use.claims
        if not claims.exp:
            return None
        return claims.iat + (claims.exp - claims.iat) * RENEWED_AT - now().timestamp()

    @property
    def look_every_s(self) -> float:
        """Return the seconds between two checks for newer credentials, because nothing announces a changed file."""
        claims = self._in_use.claims
        return max(0.05, (claims.exp - claims.iat) / _LOOKS_PER_LIFE)

    def _text(self) -> str:
        if isinstance(self._source, Path):
            return self._source.read_text()
        return self._source if isinstance(self._source, str) else self._source()


class Renewable(Protocol):
    """A connection that can be closed and opened again with other credentials."""

    now: Clock

    def renew(self) -> Awaitable[None]:
        """Close the connection and open it again."""
        ...


class Renewal:
    """Opens the connection again with renewed credentials before the old ones expire."""

    def __init__(self, bus: Renewable, login: Login) -> None:
        self._bus, self._login = bus, login

    async def run(self) -> None:
        """Renew the connection whenever the source contains newer credentials. Runs until cancelled."""
        while True:
            due_in_s = self._login.due_in_s(self._bus.now)
            if due_in_s is None:
                await asyncio.get_running_loop().create_future()  # The credentials in use do not expire.
            elif due_in_s > 0:
                await asyncio.sleep(due_in_s)
            elif self._login.renewed():
                await self._bus.renew()
            else:
                await asyncio.sleep(self._login.look_every_s)


class NoTls(NatsError):
    """The server offers no TLS, so this client sends nothing to the server."""


class LastingClient(PlainHeaders):
    """A NATS client that also reconnects after the server has rejected its credentials.

    nats-py would close permanently. This client tries again with the credentials that the source then returns.
    """

    _pongs: list[asyncio.Future[bool]]  # nats-py annotates `_pongs` only in part.
    tls: TlsFiles | None = None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS settings. nats-py reads this property at every connection that uses TLS."""
        return self.tls.context() if self.tls else super().ssl_context

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109 - nats-py's own
        """Send the buffer, then a PING, and wait for the PONG.

        nats-py's own `flush` sends the PING before the buffer, so it does not wait until the server has read the
        buffer.
        """
        async with asyncio.timeout(timeout):
            await self._flush_pending(force_flush=True)
            await super().flush(timeout)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Refuse a server without TLS if TLS is required.

        nats-py would continue without TLS if the server, or an attacker in between, says that it has none.
        """
        expected = self.tls or (self._current_server and self._current_server.uri.scheme == "tls")
        if initial_connection and expected and not info.get("tls_required"):
            raise NoTls("the server offers no TLS")
        await super()._process_info(info, initial_connection)

    async def _process_pong(self) -> None:
        """Handle a PONG, also if the flush that waited for it has timed out.

        nats-py fails in this case and never reads from the connection again.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                # nats-py does not close the transport. A client whose login is rejected would leave four open
                # transports per second.
                self._transport.close()
            raise

    async def _process_err(self, err_msg: str) -> None:
        if refuses(err_msg):
            await self._process_op_err(AuthorizationError())
        else:
            await super()._process_err(err_msg)


def login_with(source: CredentialsSource) -> Login:
    """Read the first credentials from `source`. Raises `Unavailable` with the name of the setting."""
    try:
        return Login(source)
    except (OSError, InvalidMessage) as error:
        raise Unavailable(f"no usable NATS credentials ({error}); check MUSTER_NATS_CREDENTIALS") from None


@asynccontextmanager
async def renewing(bus: Renewable, login: Login | None) -> AsyncGenerator[None]:
    """Renew the connection's credentials in the background while the block runs, if they expire."""
    if login is None or login.due_in_s(bus.now) is None:
        yield
        return
    # A TaskGroup would wrap an error of the caller's block in an ExceptionGroup.
    keeping = asyncio.get_running_loop().create_task(supervise("credentials", Renewal(bus, login).run))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


def refuses(text: object) -> bool:
    """Return whether a server error means that the credentials are rejected."""
    return any(word in str(text).lower() for word in _REFUSALS)


def login_options(login: Login, inbox_prefix: str | None) -> dict[str, Any]:
    """Return the login arguments for nats-py's `Client.connect`."""
    return {
        "signature_cb": login.sign,
        "user_jwt_cb": login.token,
        "inbox_prefix": inbox_prefix or f"_INBOX.{login.name}",
    }
