"""Writes what people do over NATS to the audit; the service that answers a command writes the entry.

Requests between our own services are left out: who asked *them* is in the audit already. NATS does not say who
published a message. The reply subject tells: it lies in the requester's inbox, which only its owner may subscribe to. A
requester that wants no reply could name the inbox of another.
"""

import re
from collections.abc import Mapping

import msgspec

from muster.common.bus.audit import AuditTrail
from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.headers import ERROR, ERROR_STATUS, SOURCE
from muster.common.contract import TOKEN
from muster.common.contracts.audit import Audited
from muster.common.trace import trace_id

OURS = frozenset({"management_api", "agent_manager", "guardian", "sandbox_gateway"})
NOT_SAID = "nobody"
"""The name for a requester that wants no reply."""
UNKNOWN_VERB = "unrouted"
DONE = 200
_LONGEST_WHO = 100
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


class _About(msgspec.Struct):
    """The part of a command's body that says what it is about."""

    agent_id: object = None
    task_id: object = None
    target: object = None


def is_command(subject: str) -> bool:
    """Return whether requests on this subject change something; queries do not."""
    return "command" in subject.split(".")


def action_of(contract: type) -> str:
    """Return the name of a contract in the audit, as the API writes it: `SubmitTask` is `submit-task`."""
    return _WORD.sub("-", contract.__name__).lower()


class CommandAudit:
    """Writes each command that one service has answered to the audit, after the reply and without waiting."""

    def __init__(self, bus: Bus, service: str, trail: AuditTrail) -> None:
        self._bus, self._service, self._trail = bus, service, trail
        # With credentials, replies arrive below the name of the requester; without, inboxes have no name.
        self._named = bus.inbox().count(".") > 1

    def told(self, request: Incoming, action: str, refusal: Mapping[str, str] | None) -> None:
        """Audit one answered command; `refusal`: the headers of a refusal."""
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
