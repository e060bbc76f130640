"""Writes commands that people send over NATS to the audit. The service that handles a command writes the entry.

Requests between Muster's services are left out, because the first service has audited the person's request. NATS does
not show who published a message. So the requester's name is read from the reply subject, which lies in the inbox of the
requester. A requester that needs no reply could name another client's inbox, and would be audited under that client's
name.
"""

import re
from collections.abc import Mapping

import msgspec

from muster.common.bus.audit_trail import AuditTrail
from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.headers import ERROR, ERROR_STATUS, SOURCE
from muster.common.contract import TOKEN
from muster.common.contracts.audit import Audited
from muster.common.trace import trace_id

OURS = frozenset({"management_api", "agent_manager", "guardian", "sandbox_gateway"})
NOT_SAID = "nobody"
"""The name of a requester that expects no reply."""
UNKNOWN_VERB = "unrouted"
DONE = 200
_LONGEST_WHO = 100
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class _About(msgspec.Struct):
    """The fields of a command that name the agent or the task that the command acts on."""

    agent_id: object = None
    task_id: object = None
    target: object = None


def is_command(subject: str) -> bool:
    """Return whether requests on this subject are commands, which change something, and not queries."""
    return "command" in subject.split(".")


def action_of(contract: type) -> str:
    """Return the audit's name for a contract, for example `submit-task` for `SubmitTask`."""
    return _WORD.sub("-", contract.__name__).lower()


class CommandAudit:
    """Writes each command that a service has handled to the audit. Writes after the reply, without waiting."""

    def __init__(self, bus: Bus, service: str, trail: AuditTrail) -> None:
        self._bus, self._service, self._trail = bus, service, trail
        # With credentials, the inbox contains the name of the requester. Without credentials, it contains no name.
        self._named = bus.inbox().count(".") > 1

    def record(self, request: Incoming, action: str, refusal: Mapping[str, str] | None) -> None:
        """Write one handled command to the audit. `refusal` is the headers of an error reply, or None."""
        name = self._asker(request)
        if name in OURS:
            return
        detail: dict[str, object] = {"status": DONE, "trace_id": trace_id()}
        if refusal is not None:
            detail |= {"status": int(refusal[ERROR_STATUS]), "code": refusal[ERROR]}
        self._trail.keep(
            Audited(
                service=self._service,
                action=action if TOKEN.fullmatch(action) else UNKNOWN_VERB,
                event_id=self._bus.new_id("evt"),
                at=self._bus.now(),
                who=f"nats:{name}",
                what=" ".join(filter(None, (request.subject, _about(request.data)))),
                outcome="done" if refusal is None else "refused",
                detail=detail,
            )
        )

    def _asker(self, request: Incoming) -> str:
        parts = request.reply.split(".")
        if not self._named:
            return (request.headers or {}).get(SOURCE, NOT_SAID)[:_LONGEST_WHO]
        return parts[1][:_LONGEST_WHO] if parts[0] == "_INBOX" and len(parts) > 1 else NOT_SAID


def _about(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body, type=_About)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    named = (said.agent_id, said.task_id, said.target)
    return next((word for word in named if isinstance(word, str) and TOKEN.fullmatch(word)), "")
