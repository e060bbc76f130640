"""The table of roles: which subjects each role may publish and subscribe to. The server refuses everything else.

`{{name()}}` stands for the name in a user's own credentials. Replies arrive below `_INBOX.<name>` and nowhere else.
Subjects of JetStream's API are listed for each stream, because a permission for all of them would read every log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain

from muster.common.contracts.sandbox_log import all_log_streams

INBOX = "_INBOX.{{name()}}.>"
ANYTHING = ">"
ABOUT = ("PING", "INFO", "STATS")
ANYBODYS_INBOX = "_INBOX.>"
"""Where services answer. The server could keep book of who was asked what instead, but would have to remember every
request for as long as the slowest handler may take, and counts two answers where one connection was asked twice."""


class Role(StrEnum):
    """The role whose key signs these users."""

    MANAGEMENT_API = "management_api"
    AGENT_MANAGER = "agent_manager"
    GUARDIAN = "guardian"
    SANDBOX_GATEWAY = "sandbox_gateway"
    AGENT = "agent"
    OBSERVER = "observer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True)
class Answers:
    """Permission to reply to a request, and to publish nothing else, on whatever subject the request names."""

    most: int
    within_s: float


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """The permissions of one role."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = (INBOX,)
    deny_publish: tuple[str, ...] = ()
    deny_subscribe: tuple[str, ...] = ()
    answers: Answers | None = None


@dataclass
class _Service:
    """A row under construction: each call adds the subjects that one act needs."""

    name: str
    publish: list[str] = field(default_factory=list[str])
    subscribe: list[str] = field(default_factory=lambda: [INBOX])

    def answers(self, *subjects: str, as_well_as: str = "") -> "_Service":
        self.subscribe += [*subjects, *(f"$SRV.{verb}" for verb in ABOUT)]
        for name in filter(None, (self.name, as_well_as)):
            self.subscribe += [f"$SRV.{verb}.{name}{mine}" for verb in ABOUT for mine in ("", ".*")]
        return self

    def asks(self, *subjects: str) -> "_Service":
        self.publish += subjects
        return self

    def tells(self, *subjects: str) -> "_Service":
        self.publish += subjects
        return self

    def hears(self, *subjects: str) -> "_Service":
        self.subscribe += subjects
        return self

    def woken_by(self, *stored: str) -> "_Service":
        self.subscribe += [f"stored.{subject}" for subject in stored]
        return self

    def keeps(self, *streams: str) -> "_Service":
        self.publish += [f"$JS.API.STREAM.{verb}.{stream}" for stream in streams for verb in ("CREATE", "UPDATE")]
        return self.reads(*streams)

    def keeps_bucket(self, *buckets: str) -> "_Service":
        self.publish += [f"$KV.{bucket}.>" for bucket in buckets]
        self.woken_by(*(f"$KV.{bucket}.>" for bucket in buckets))
        return self.keeps(*(f"KV_{bucket}" for bucket in buckets))

    def audits(self) -> "_Service":
        """Permissions to write one's own audit entries and to create the stream; only the API may change it."""
        self.publish += [f"audit.{self.name}.*", "$JS.API.STREAM.CREATE.AUDIT"]
        return self

    def reads(self, *streams: str) -> "_Service":
        verbs = ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
        self.publish += [f"$JS.API.{verb}.{stream}" for stream in streams for verb in verbs]
        return self

    def follows(self, durables: Iterable[tuple[str, str]]) -> "_Service":
        for stream, durable in durables:
            verbs = ("DURABLE.CREATE", "MSG.NEXT")
            self.publish += [f"$JS.API.CONSUMER.{verb}.{stream}.{durable}" for verb in verbs]
            self.publish.append(f"$JS.ACK.{stream}.{durable}.>")
        # Permissions to store messages that could not be handled, and to create their stream.
        self.publish.append("deadletter.*")
        return self.keeps("DEAD_LETTERS")

    def done(self) -> Permissions:
        return Permissions(
            publish=tuple(dict.fromkeys((ANYBODYS_INBOX, *self.publish))),
            subscribe=tuple(dict.fromkeys(self.subscribe)),
        )


def _logs_for(service: str) -> list[tuple[str, str]]:
    return [(stream, f"{service}-{stream[-2:]}") for stream in all_log_streams()]


_MANAGEMENT_API = (
    _Service("management_api")
    .answers()
    .asks("agent.manager.command.*", "agent.manager.query.*", "task.manager.command.*", "task.manager.query.*")
    .asks("guardian.command.*", "guardian.query.*", "sandbox.gateway.query.*", "$SRV.PING.*")
    .tells("audit.management_api.*")
    .keeps("AUDIT")
    .follows([("AUDIT", "management_api-audit")])
    .reads("TASKS", "AGENTS", "AGENT_LOGS", "GUARDIAN", *all_log_streams())
    .woken_by("task.*.event.*", "agent.*.event.*", "agent.*.log", "guardian.event.*.*", "sandbox.*.*.log")
    .done()
)

_AGENT_MANAGER = (
    _Service("agent_manager")
    .answers("agent.manager.command", "agent.manager.command.*", "agent.manager.query", "agent.manager.query.*")
    .answers("task.manager.command.*", "task.manager.query.*", as_well_as="agent_manager_logs")
    .hears("agent.*.status", "agent.*.metrics", "agent.*.response")
    .asks("agent.*.command", "agent.*.query", "sandbox.gateway.command.*", "sandbox.gateway.query.*")
    .tells("task.*.event.*", "agent.*.event.*", "agent.*.log")
    .tells("agent.manager.response", "agent.status", "agent.metrics")
    .audits()
    .keeps("TASKS", "AGENTS", "AGENT_LOGS")
    .reads(*all_log_streams())
    .woken_by("task.*.event.*", "agent.*.event.*", "agent.*.log", "sandbox.*.*.log")
    .follows([*_logs_for("agent_manager"), ("MODEL_CALLS", "agent_manager-meter")])
    .done()
)

_GUARDIAN = (
    _Service("guardian")
    .answers("guardian.command.*", "guardian.query.*")
    .hears("sandbox.gateway.event.alive", "sandbox.*.*.beat")
    .asks("sandbox.gateway.command.message", "task.manager.command.replace")
    .asks("task.manager.query.get", "task.manager.query.list")
    .tells("guardian.log.*", "guardian.event.*.*")
    .audits()
    .keeps("GUARDIAN")
    .keeps_bucket("leases")
    .reads("BEATS", *all_log_streams())
    .follows(_logs_for("guardian"))
    .done()
)

_SANDBOX_GATEWAY = (
    _Service("sandbox_gateway")
    .answers("sandbox.gateway.command.*", "sandbox.gateway.query.*")
    .hears("sandbox.*.*.bell")
    .asks("task.manager.command.report-exit")
    .tells(*(f"sandbox.*.*.{what}" for what in ("log", "beat", "inbox", "model", "asked.*", "bell")))
    .tells("sandbox.gateway.event.*", "audit.sandbox_gateway.*")
    .keeps("INBOX", "BEATS", "MODEL_CALLS", "MODEL_ASKED", *all_log_streams())
    .keeps_bucket("sandboxes", "fence")
    .done()
)

_AGENT = Permissions(
    publish=(*(f"agent.{{{{name()}}}}.{what}" for what in ("status", "metrics", "response")), "tool.>"),
    subscribe=("agent.{{name()}}.command", "agent.{{name()}}.query", INBOX),
    deny_publish=("$JS.>", "$SYS.>"),
    deny_subscribe=("$JS.>", "$SYS.>"),
    answers=Answers(1, 30.0),
)

_OBSERVER = Permissions(
    publish=(
        *("agent.manager.query", "agent.manager.query.*", "task.manager.query.*"),
        *("sandbox.gateway.query.*", "guardian.query.*"),
        *chain.from_iterable((f"$SRV.{verb}", f"$SRV.{verb}.>") for verb in ABOUT),
    ),
    subscribe=(
        *("agent.*.event.*", "task.*.event.*", "guardian.event.*.*", "sandbox.gateway.event.*"),
        *("agent.manager.response", "agent.status", "agent.metrics", INBOX),
    ),
    deny_publish=("$JS.>", "$SYS.>"),
    deny_subscribe=("$JS.>", "$SYS.>"),
)

_OPERATOR = replace(
    _OBSERVER,
    publish=(
        *_OBSERVER.publish,
        *("agent.manager.command", "agent.manager.command.*", "guardian.command.*"),
        *("task.manager.command.submit", "task.manager.command.cancel"),
    ),
    deny_publish=(*_OBSERVER.deny_publish, "agent.manager.command.delete"),
)

ROLES: dict[Role, Permissions] = {
    Role.MANAGEMENT_API: _MANAGEMENT_API,
    Role.AGENT_MANAGER: _AGENT_MANAGER,
    Role.GUARDIAN: _GUARDIAN,
    Role.SANDBOX_GATEWAY: _SANDBOX_GATEWAY,
    Role.AGENT: _AGENT,
    Role.OBSERVER: _OBSERVER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: Permissions(publish=(ANYTHING,), subscribe=(ANYTHING,)),
}
"""Permissions for everything in the account of services and agents."""


def revoker(account: str) -> Permissions:
    """Permissions in the system account: look an account up, update it, and see other updates."""
    about = f"$SYS.REQ.ACCOUNT.{account}"
    return Permissions(
        publish=("$SYS.REQ.CLAIMS.UPDATE", f"{about}.CLAIMS.LOOKUP", f"{about}.INFO"),
        subscribe=("$SYS.REQ.CLAIMS.UPDATE", INBOX),
    )
