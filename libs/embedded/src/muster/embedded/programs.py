"""The programs of the stack: what is started, and what each of them is told."""

from dataclasses import dataclass
from typing import Literal

from muster.common.identity.roles import Role

ListenerName = Literal["api", "gateway"]
Need = Literal["nats", "database", "admin_key", "token_keys", "shim", "gateway", "providers", "authority"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of our own programs, run by the stack's Python."""

    name: str
    arguments: tuple[str, ...]
    """After `python`; the words `{socket}`, `{state}` and `{isolation}` stand for what the shim is told."""
    needs: frozenset[Need] = frozenset()
    role: Role | None = None
    """What it may do on NATS, where everyone has credentials of their own."""
    listener: ListenerName | None = None
    """The HTTP socket it inherits as `MUSTER_HTTP_FD`; it answers `/ready` there."""
    migrates: bool = False
    """`<arguments> migrate` runs before any service starts."""
    answers: bool = True
    """It answers `$SRV.PING.<name>` once it is ready."""


def _service(name: str, *needs: Need, listener: ListenerName | None = None, migrates: bool = False) -> Program:
    return Program(
        name=name,
        arguments=("-m", f"muster.{name}"),
        needs=frozenset(("nats", *needs)),
        role=Role(name),
        listener=listener,
        migrates=migrates,
    )


SERVICES = (
    _service("agent_manager", "database", "shim", "authority", migrates=True),
    _service("sandbox_gateway", "token_keys", "shim", "gateway", "providers", listener="gateway"),
    _service("guardian"),
    _service("management_api", "admin_key", "database", listener="api", migrates=True),
)

SHIM = Program(
    name="shim",
    arguments=("-m", "muster.shim", "--socket", "{socket}", "--state", "{state}", "--isolation", "{isolation}"),
    answers=False,
)
