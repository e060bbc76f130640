"""The programs that the stack of `muster up` runs, and the settings that each program needs."""

from dataclasses import dataclass
from typing import Literal

from muster.common.nats_identity.roles import NatsRole

ListenerName = Literal["api", "gateway"]
Need = Literal["nats", "database", "admin_key", "token_keys", "shim", "gateway", "providers", "authority"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program of Muster, which the stack runs with its Python interpreter."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of the interpreter; the stack replaces `{socket}`, `{state}` and `{isolation}` for the shim."""
    needs: frozenset[Need] = frozenset()
    """Kinds of settings and secrets that the program gets in its environment."""
    role: NatsRole | None = None
    """The role of the program's NATS credentials."""
    listener: ListenerName | None = None
    """The HTTP socket that the program inherits as `MUSTER_HTTP_FD`, and on which the program answers `/ready`."""
    migrates: bool = False
    """Whether the stack runs the program's command `migrate` before it starts any service."""
    answers: bool = True
    """Whether the program answers the NATS request `$SRV.PING.<name>` when it is ready."""


def _service(name: str, *needs: Need, listener: ListenerName | None = None, migrates: bool = False) -> Program:
    return Program(
        name=name,
        arguments=("-m", f"muster.{name}"),
        needs=frozenset(("nats", *needs)),
        role=NatsRole(name),
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
