"""The permissions of each role: the subjects that it may publish and subscribe to. The server refuses all others.

`{{name()}}` is replaced by the name in the user's credentials. A user receives replies only below `_INBOX.<name>`.
Subjects of JetStream's API are listed for each stream, because a wildcard would allow reading every log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain

from muster.common.contracts.sandbox_log import PAYLOADS, all_log_streams

INBOX = "_INBOX.{{name()}}.>"
ANYTHING = ">"
ABOUT = ("PING", "INFO", "STATS")
ANYBODYS_INBOX = "_INBOX.>"
"""The subjects on which services reply.

NATS could track requests and permit only their replies. But then it would have to remember every request as long as the
slowest handler may run, and it would count the replies to two requests of one connection together.
"""


class NatsRole(StrEnum):
    """A role. Each role has its own signing key, which signs the users of the role."""

    MANAGEMENT_API = "management_api"
    AGENT_MANAGER = "agent_manager"
    GUARDIAN = "guardian"
    SANDBOX_GATEWAY = "sandbox_gateway"
    AGENT = "agent"
    OBSERVER = "observer"
    OPERATOR = "operator"
    FORENSICS = "forensics"
    ADMIN = "admin"


@dataclass(frozen=True)
class Answers:
    """Permission to reply to a received request on the request's reply subject."""

    most: int
    within_s: float


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """The subjects that one role may publish and subscribe to."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = (INBOX,)
    deny_publish: tuple[str, ...] = ()
    deny_subscribe: tuple[str, ...] = ()
    answers: Answers | None = None


@dataclass
class _Service:
    """The permissions of one service while they are collected. Each method adds the subjects of one kind of use."""

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

    def keeps_objects(self, *buckets: str) -> "_Service":
        """Allow the service to create object buckets and to add objects, but not to remove any."""
        self.publish += [f"$O.{bucket}.>" for bucket in buckets]
        return self.keeps(*(f"OBJ_{bucket}" for bucket in buckets))

    def audits(self) -> "_Service":
        """Allow the service to write its own audit entries and to create, but not change, the stream `AUDIT`."""
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
        # The consumer may store messages that it could not handle, and may create their stream.
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
    .asks(*(f"sandbox.gateway.command.{what}" for what in ("exec", "exec-start", "exec-output", "exec-end")))
    .asks(*(f"sandbox.gateway.command.{what}" for what in ("put-file", "fetch-file")))
    .tells("audit.management_api.*")
    .keeps("AUDIT")
    .follows([("AUDIT", "management_api-audit")])
    .reads("TASKS", "AGENTS", "AGENT_LOGS", "GUARDIAN", f"OBJ_{PAYLOADS}", *all_log_streams())
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
    .keeps_objects(PAYLOADS)
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
        *("task.manager.command.submit", "task.manager.command.cancel", "task.manager.command.deliver"),
    ),
    deny_publish=(*_OBSERVER.deny_publish, "agent.manager.command.delete"),
)

STREAM_READS = (
    *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*"),
    *("$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.*", "$JS.API.DIRECT.GET.*.>"),
    *("$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*"),
)
"""The requests of the JetStream API by which the role `forensics` lists, describes and reads streams.

The creation of a consumer is not among them. The server publishes the messages of a consumer on any subject that the
request names, and a changed filter of an existing consumer would hide messages from a service.
"""

_FORENSICS = Permissions(publish=STREAM_READS)
"""Reads every stream, from another NATS account than all other roles.

The server publishes the reply to a request on the reply subject, without regard to the permissions of the client. In
the account of the services, such a reply could be stored in a stream, or reach a service as a request.
"""

ROLES: dict[NatsRole, Permissions] = {
    NatsRole.MANAGEMENT_API: _MANAGEMENT_API,
    NatsRole.AGENT_MANAGER: _AGENT_MANAGER,
    NatsRole.GUARDIAN: _GUARDIAN,
    NatsRole.SANDBOX_GATEWAY: _SANDBOX_GATEWAY,
    NatsRole.AGENT: _AGENT,
    NatsRole.OBSERVER: _OBSERVER,
    NatsRole.OPERATOR: _OPERATOR,
    NatsRole.FORENSICS: _FORENSICS,
    NatsRole.ADMIN: Permissions(publish=(ANYTHING,), subscribe=(ANYTHING,)),
}
"""The permissions of each role. All roles except `forensics` are in the account of services and agents."""


def revoker(account: str) -> Permissions:
    """Return the permissions in the system account: read and update an account, and receive all updates."""
    about = f"$SYS.REQ.ACCOUNT.{account}"
    return Permissions(
        publish=("$SYS.REQ.CLAIMS.UPDATE", f"{about}.CLAIMS.LOOKUP", f"{about}.INFO"),
        subscribe=("$SYS.REQ.CLAIMS.UPDATE", INBOX),
    )
