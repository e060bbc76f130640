"""Senders, receivers and streams of each subject, derived from the table of roles and the stream settings."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from muster.common import contracts
from muster.common.bus.deadletters import DeadLetter
from muster.common.contract import Command, Message
from muster.common.contracts.agents import RESERVED
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from muster.common.contracts.worker_api import InboxMessage
from muster.common.nats_identity.roles import ROLES, NatsRole
from tests.support.house import ROOT
from tests.support.streams import STREAMS

PEOPLE = frozenset({NatsRole.OBSERVER, NatsRole.OPERATOR, NatsRole.FORENSICS, NatsRole.ADMIN})
PUT_TOGETHER: dict[str, type[Message]] = {
    "sandbox.{partition}.{sandbox_id}.log": Frame,
    "sandbox.{partition}.{sandbox_id}.inbox": InboxMessage,
    "guardian.log.{sandbox_id}": GuardianRecord,
}
"""Subjects that no class carries, because their one writer puts them together."""


@cache
def subjects() -> dict[str, type[Message]]:
    """Return every subject with its message class, sorted by the name of the class."""
    rooms = [import_module(f"{contracts.__name__}.{found.name}") for found in iter_modules(contracts.__path__)]
    carried = {
        contract.SUBJECT: contract
        for room in rooms
        for contract in vars(room).values()
        if isinstance(contract, type) and issubclass(contract, Message) and contract.SUBJECT
    }
    every = carried | {DeadLetter.SUBJECT: DeadLetter} | PUT_TOGETHER
    return dict(sorted(every.items(), key=lambda one: one[1].__name__))


def is_command(contract: type[Message]) -> bool:
    """Return whether a message of this class is a command, which gets a reply."""
    return issubclass(contract, Command)


def may_publish(subject: str) -> list[str]:
    """Return the services and agents that may publish on the subject."""
    return [role for role, may in ROLES.items() if role not in PEOPLE and any_meets(may.publish, subject)]


def may_hear(subject: str) -> list[str]:
    """Return the services and agents that may subscribe to the subject."""
    return [role for role, may in ROLES.items() if role not in PEOPLE and any_meets(may.subscribe, subject)]


def people(subject: str, *, say: bool) -> list[str]:
    """Return the roles for people that may publish on the subject (`say`) or subscribe to it."""
    return [role for role in ROLES if role in PEOPLE and any_meets(_granted(role, say=say), subject)]


def may_read(stream: str) -> list[str]:
    """Return the services that may read or follow the stream."""
    ways = (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.")
    return [role for role, may in ROLES.items() if any(grant.startswith(ways) for grant in may.publish)]


def may_keep() -> set[str]:
    """Return the streams that a role may create, without buckets."""
    made = "$JS.API.STREAM.CREATE."
    every = {grant.removeprefix(made) for may in ROLES.values() for grant in may.publish if grant.startswith(made)}
    return {stream for stream in every if not stream.startswith(("KV_", "OBJ_"))}


def kept_in(subject: str) -> list[str]:
    """Return the streams that store messages of the subject."""
    return [spec.name for spec in STREAMS if any_meets(spec.subjects, subject)]


@cache
def handled() -> dict[str, set[str]]:
    """Return the names of the commands that each service handles, read from its `service.py` and `wiring.py`."""
    commands = {contract.__name__ for contract in subjects().values() if is_command(contract)}
    found = dict[str, set[str]]()
    for path in sorted((ROOT / "services").glob("*/src/muster/*/**/*.py")):
        if path.stem in ("service", "wiring"):
            service = path.relative_to(ROOT).parts[1]
            names = {name for name in _handed_over(ast.parse(path.read_text())) if name in commands}
            found.setdefault(service, set()).update(names)
    return found


def any_meets(patterns: Iterable[str], subject: str) -> bool:
    """Return whether one of the patterns overlaps with `subject`."""
    return any(meets(pattern, subject) for pattern in patterns)


def meets(one: str, other: str) -> bool:
    """Return whether a subject exists that matches both patterns (NATS wildcards or `{places}` of contracts)."""
    first, second = one.split("."), other.split(".")
    for left, right in zip(first, second, strict=False):
        if ">" in (left, right):
            return True
        if not (_fits(left, right) and _fits(right, left)):
            return False
    return len(first) == len(second)


def _fits(left: str, right: str) -> bool:
    if left in ("{agent_id}", "{{name()}}"):
        return right not in RESERVED
    if left == "{partition}":
        return right.isdecimal() or not right.isalnum()
    return left == right or "*" in (left, right) or left.startswith("{") or right.startswith("{")


def _granted(role: NatsRole, *, say: bool) -> tuple[str, ...]:
    return ROLES[role].publish if say else ROLES[role].subscribe


def _handed_over(tree: ast.AST) -> Iterator[str]:
    """Yield every name that is an argument of a call, such as `GetTask` in `service.handles(GetTask, tasks.get)`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=arguments):
                yield from (one.id for one in arguments if isinstance(one, ast.Name))
                yield from (one.attr for one in arguments if isinstance(one, ast.Attribute))
            case _:
                pass
