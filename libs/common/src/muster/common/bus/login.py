"""How a connection proves who it is: with credentials that are read again each time, so that renewed ones are used."""

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

from muster.common.bus.header_lines import PlainHeaders
from muster.common.clock import Clock
from muster.common.faults import InvalidMessage, Unavailable
from muster.common.identity.credentials import Credentials, read_credentials
from muster.common.supervision import supervise
from muster.common.tls import TlsFiles

log = structlog.get_logger()

CredentialsSource = Path | str | Callable[[], str]
"""A creds file, its text, or what mints such a text."""

RENEWED_AT = 2 / 3
"""Of their life. Whoever writes a file anew should have done so by then."""
_LOOKS_PER_LIFE = 30
_REFUSALS = ("authorization violation", "authentication")


class Login:
    """Credentials in use. Raises `InvalidMessage` or `OSError` if there are none to begin with."""

    def __init__(self, source: CredentialsSource) -> None:
        self._source = source
        self._in_use = read_credentials(self._text())

    @property
    def name(self) -> str:
        """Whose they are; the part of subjects that is theirs."""
        return self._in_use.name

    @property
    def public(self) -> str:
        """What the server knows the user by."""
        return self._in_use.key.public

    def sign(self, nonce: str) -> bytes:
        """For nats-py, which asks for this first and then for the token, at every connection."""
        self._in_use = self.latest()
        return base64.b64encode(self._in_use.key.sign(nonce.encode()))

    def token(self) -> bytearray:
        """The one that goes with the last signature."""
        return bytearray(self._in_use.token.encode())

    def latest(self) -> Credentials:
        """What the source has now; what was in use, where that cannot be read."""
        try:
            return read_credentials(self._text())
        except (OSError, InvalidMessage) as error:  # any other error would end nats-py's reconnecting for good
            log.warning("credentials file not readable, previous ones used", error=str(error))
            return self._in_use

    def renewed(self) -> bool:
        """Whether the source has others than those in use."""
        return self.latest().token != self._in_use.token

    def due_in_s(self, now: Clock) -> float | None:
        """Seconds until they should be renewed; None if they do not expire."""
        claims = self._in_use.claims
        if not claims.exp:
            return None
        return claims.iat + (claims.exp - claims.iat) * RENEWED_AT - now().timestamp()

    @property
    def look_every_s(self) -> float:
        """How often to look for those that are due: nothing announces a file's next content."""
        claims = self._in_use.claims
        return max(0.05, (claims.exp - claims.iat) / _LOOKS_PER_LIFE)

    def _text(self) -> str:
        if isinstance(self._source, Path):
            return self._source.read_text()
        return self._source if isinstance(self._source, str) else self._source()


class Renewable(Protocol):
    """A connection that can be made again with other credentials."""

    now: Clock

    def renew(self) -> Awaitable[None]:
        """Connect again."""
        ...


class Renewal:
    """Connects again with renewed credentials before those in use expire."""

    def __init__(self, bus: Renewable, login: Login) -> None:
        self._bus, self._login = bus, login

    async def run(self) -> None:
        """For ever."""
        while True:
            due_in_s = self._login.due_in_s(self._bus.now)
            if due_in_s is None:
                await asyncio.get_running_loop().create_future()  # those in use now do not expire
            elif due_in_s > 0:
                await asyncio.sleep(due_in_s)
            elif self._login.renewed():
                await self._bus.renew()
            else:
                await asyncio.sleep(self._login.look_every_s)


class NoTls(NatsError):
    """The server has no TLS, and this client sends nothing without."""


class LastingClient(PlainHeaders):
    """nats-py closes for ever when the server ends its login; this one tries again, with what the source has then."""

    _pongs: list[asyncio.Future[bool]]  # nats-py types them in part
    tls: TlsFiles | None = None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Asked for at every connection that has TLS."""
        return self.tls.context() if self.tls else super().ssl_context

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109 - nats-py's own
        """A barrier, which nats-py's is not: its PING overtakes what is still in the buffer."""
        async with asyncio.timeout(timeout):
            await self._flush_pending(force_flush=True)
            await super().flush(timeout)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py goes on without TLS where the server, or who stands between, says that it has none."""
        expected = self.tls or (self._current_server and self._current_server.uri.scheme == "tls")
        if initial_connection and expected and not info.get("tls_required"):
            raise NoTls("the server offers none")
        await super()._process_info(info, initial_connection)

    async def _process_pong(self) -> None:
        """nats-py's fails, and stops reading for good, where whoever waited for this answer has given up meanwhile."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # nats-py only forgets it, and who is refused tries four times a second
            raise

    async def _process_err(self, err_msg: str) -> None:
        if refuses(err_msg):
            await self._process_op_err(AuthorizationError())
        else:
            await super()._process_err(err_msg)


def login_with(source: CredentialsSource) -> Login:
    """The credentials to begin with. Raises `Unavailable` saying where to look."""
    try:
        return Login(source)
    except (OSError, InvalidMessage) as error:
        raise Unavailable(f"no usable NATS credentials ({error}); check MUSTER_NATS_CREDENTIALS") from None


@asynccontextmanager
async def renewing(bus: Renewable, login: Login | None) -> AsyncGenerator[None]:
    """Renew what expires meanwhile."""
    if login is None or login.due_in_s(bus.now) is None:
        yield
        return
    # Not in a TaskGroup: that would hand on what is raised in the body as a group.
    keeping = asyncio.get_running_loop().create_task(supervise("credentials", Renewal(bus, login).run))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


def refuses(text: object) -> bool:
    """Whether an error of the server's means that it does not take our credentials, or no longer."""
    return any(word in str(text).lower() for word in _REFUSALS)


def login_options(login: Login, inbox_prefix: str | None) -> dict[str, Any]:
    """For `Client.connect`."""
    return {
        "signature_cb": login.sign,
        "user_jwt_cb": login.token,
        "inbox_prefix": inbox_prefix or f"_INBOX.{login.name}",
    }
