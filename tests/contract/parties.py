"""Who says what on the wire, read off what is enforced: the table of roles, and the streams as their owners make them."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from muster.common import contracts
from muster.common.bus.deadletters import DeadLetter
from muster.common.contract import Command, Message
from muster.common.contracts.agents import RESERVED
from muster.common.contracts.doors import InboxMessage
from muster.common.contracts.guardian import GuardianRecord
from muster.common.contracts.sandbox_log import Frame
from muster.common.identity.roles import ROLES, Role
from tests.support.house import ROOT
from tests.support.streams import STREAMS

PEOPLE = frozenset({Role.OBSERVER, Role.OPERATOR, Role.ADMIN})
PUT_TOGETHER: dict[str, type[Message]] = {
    "sandbox.{partition}.{sandbox_id}.log": Frame,
    "sandbox.{partition}.{sandbox_id}.inbox": InboxMessage,
    "guardian.log.{sandbox_id}": GuardianRecord,
}
"""Subjects that no class carries, because their one writer puts them together."""


@cache
def subjects() -> dict[str, type[Message]]:
    """Every subject that something is said on, and what; by name of the contract."""
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
    """Whether somebody answers it."""
    return issubclass(contract, Command)


def may_publish(subject: str) -> list[str]:
    """The services and agents that may say it."""
    return [role for role, may in ROLES.items() if role not in PEOPLE and any_meets(may.publish, subject)]


def may_hear(subject: str) -> list[str]:
    """The services and agents that may hear it while it is said."""
    return [role for role, may in ROLES.items() if role not in PEOPLE and any_meets(may.subscribe, subject)]


def people(subject: str, *, say: bool) -> list[str]:
    """The roles for people, with the `nats` CLI, that may say it, or else hear it."""
    return [role for role in ROLES if role in PEOPLE and any_meets(_granted(role, say=say), subject)]


def may_read(stream: str) -> list[str]:
    """The services that may read or follow the stream."""
    ways = (f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.")
    return [role for role, may in ROLES.items() if any(grant.startswith(ways) for grant in may.publish)]


def may_keep() -> set[str]:
    """The streams that somebody may make; buckets left out."""
    made = "$JS.API.STREAM.CREATE."
    every = {grant.removeprefix(made) for may in ROLES.values() for grant in may.publish if grant.startswith(made)}
    return {stream for stream in every if not stream.startswith("KV_")}


def kept_in(subject: str) -> list[str]:
    """The streams that store it."""
    return [spec.name for spec in STREAMS if any_meets(spec.subjects, subject)]


@cache
def handled() -> dict[str, set[str]]:
    """By service: the names of the commands for which its `service.py` or a `wiring.py` names a handler."""
    commands = {contract.__name__ for contract in subjects().values() if is_command(contract)}
    found = dict[str, set[str]]()
    for path in sorted((ROOT / "services").glob("*/src/muster/*/**/*.py")):
        if path.stem in ("service", "wiring"):
            service = path.relative_to(ROOT).parts[1]
            names = {name for name in _handed_over(ast.parse(path.read_text())) if name in commands}
            found.setdefault(service, set()).update(names)
    return found


def any_meets(patterns: Iterable[str], subject: str) -> bool:
    """Whether one of these patterns meets `subject`."""
    return any(meets(pattern, subject) for pattern in patterns)


def meets(one: str, other: str) -> bool:
    """Whether there is a subject that fits both: patterns of NATS, or of contracts with `{places}`."""
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


def _granted(role: Role, *, say: bool) -> tuple[str, ...]:
    return ROLES[role].publish if say else ROLES[role].subscribe


def _handed_over(tree: ast.AST) -> Iterator[str]:
    """What is an argument somewhere: `service.handles(GetTask, tasks.get)`, or the same by way of a local function."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=arguments):
                yield from (one.id for one in arguments if isinstance(one, ast.Name))
                yield from (one.attr for one in arguments if isinstance(one, ast.Attribute))
            case _:
                pass
