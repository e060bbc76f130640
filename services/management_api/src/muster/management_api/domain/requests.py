"""What clients may send. Stricter than the bus: an unknown field is a mistake, and every value has its bounds."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Annotated, Any, Self, cast

import msgspec

from muster.common.contract import Message
from muster.common.contracts.gateway import Repo
from muster.common.contracts.limits import MOST_DEPTH
from muster.common.contracts.packages import Mode
from muster.common.contracts.tasks import Priority, SubmitTask
from muster.common.faults import InvalidMessage

MOST_VALUES = 20_000
"""Of one request, keys and members counted: what a request may cost to check, whatever it is made of."""
_MOST_PATH_CHARS = 200
NAME = "^[A-Za-z0-9_-]{1,64}$"
UNSPACED = "^[!-~]*$"
_VISIBLE = r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
"""At least one character that is no space, in every dialect of regular expressions."""


def storable(most: int, *, least: int = 1) -> msgspec.Meta:
    """A text that PostgreSQL can hold."""
    says = "may not contain the character NUL"
    return msgspec.Meta(min_length=least, max_length=most, pattern=r"^[^\x00]*$", description=says)


def visible(most: int) -> msgspec.Meta:
    """A text that says something."""
    says = "must hold at least one visible character"
    return msgspec.Meta(min_length=1, max_length=most, pattern=_VISIBLE, description=says)


def unspaced(most: int) -> msgspec.Meta:
    """A word of ours, given back."""
    says = "may hold printable ASCII without spaces"
    return msgspec.Meta(min_length=1, max_length=most, pattern=UNSPACED, description=says)


Line = Annotated[str, storable(1_000)]
Name = Annotated[str, msgspec.Meta(pattern=NAME, description="may hold letters, digits, - and _, 1 to 64 of them")]
Title = Annotated[
    str,
    msgspec.Meta(
        pattern="^[!-.0-~]([ -.0-~]{0,62}[!-.0-~])?$",
        description="may hold printable ASCII without /, 1 to 64 characters, no space at its ends",
    ),
]
"""What people call an agent."""
Word = Annotated[str, unspaced(64)]
Path = Annotated[str, storable(500)]
Said = Annotated[str, visible(32_000)]
Labels = Annotated[
    dict[Annotated[str, storable(63)], Annotated[str, storable(255, least=0)]],
    msgspec.Meta(max_length=50),
]


class Strict(Message, forbid_unknown_fields=True):
    """A request's body."""

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode `body` and check that it can be stored. Raises `InvalidMessage` naming the field."""
        value = super().from_json(body)
        try:
            refuse_unstorable(msgspec.to_builtins(value, builtin_types=(datetime,)))
        except RecursionError:
            raise InvalidMessage("nested too deep", field="$") from None
        return value


class NewRepo(Strict):
    """A git repository to clone, and what to check out."""

    url: Annotated[str, visible(1_000)]
    ref: Line | None = None


class NewTask(Strict):
    """`SubmitTask` without its id, which the API mints."""

    objective: Annotated[str, visible(65_000)]
    repo: NewRepo | None = None
    agent_id: Name | None = None
    package: Name | None = None
    model: Annotated[str, visible(200)] | None = None
    test_command: Annotated[str, visible(8_000)] | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=100)] = []
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 300.0
    priority: Priority = "NORMAL"
    project: Name | None = None
    labels: Labels = {}
    depends_on: Annotated[list[Name], msgspec.Meta(max_length=100)] = []
    ticket_id: Name | None = None
    phase_id: Name | None = None
    metadata: dict[str, Any] = {}

    def command(self, task_id: str, *, project: str = "default") -> SubmitTask:
        """As the manager takes it. `project`: unless the request names one."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["project"] = self.project or project
        if self.repo is not None:
            fields["repo"] = Repo(url=self.repo.url, ref=self.repo.ref)
        return SubmitTask(task_id=task_id, **fields)


class NewMessage(Strict):
    """Something to say to the agent at work."""

    text: Said
    urgent: bool = False


class Cancellation(Strict):
    """Why a task is ended."""

    reason: Line = "cancelled by request"


class NewAgent(Strict):
    """`RegisterAgent` without its id, which the API mints."""

    name: Title
    package: Name
    mode: Mode = "process"
    config: dict[str, Any] = {}
    labels: Labels = {}


class AgentChange(Strict):
    """What an agent is to be from now on; what is absent stays as it is."""

    name: Title | None = None
    config: dict[str, Any] | None = None
    labels: Labels | None = None


class Wanted(Strict):
    """What an agent is wanted for; `available`: only one that could take a task now."""

    capabilities: Annotated[list[Word], msgspec.Meta(max_length=64)] = []
    package: Name | None = None
    mode: Mode | None = None
    labels: Labels = {}
    available: bool = False


class AgentMessage(Strict):
    """A text for a running agent."""

    text: Said


def in_calendar(at: datetime) -> bool:
    """Whether it is a time in UTC, too."""
    try:
        at.astimezone(UTC)
    except OverflowError:
        return False
    return True


def refuse_outside_calendar(at: datetime) -> datetime:
    """The time itself. Raises `ValueError` for one that has no date in UTC."""
    if not in_calendar(at):
        raise ValueError("in UTC this is outside the years 1 to 9999")
    return at


def refuse_unstorable(value: object) -> None:
    """Raise `InvalidMessage` for what JSON allows and PostgreSQL or a decoder behind us does not.

    These are NUL, great depth, more than `MOST_VALUES` values, and a time that is outside the calendar once it is
    put into UTC. The path of the wrong value is put together only when it is refused, on the way back up: to build
    it for each value would cost the length of every key above, once for each value below it.
    """
    if wrong := _unstorable(value, 0, count(1)):
        text, steps = wrong
        raise InvalidMessage(text, field=("$" + "".join(reversed(steps)))[:_MOST_PATH_CHARS])


def _unstorable(part: object, depth: int, counted: Iterator[int]) -> tuple[str, list[str]] | None:
    """What is wrong with `part`, and the steps that lead to it, the last one first."""
    if text := _wrong(part, depth, next(counted)):
        return text, []
    for step, inner in _members(part):
        if found := _unstorable(inner, depth + 1, counted):
            found[1].append(f"[{step}]" if isinstance(step, int) else step and f".{step[:_MOST_PATH_CHARS]}")
            return found
    return None


def _wrong(part: object, depth: int, number: int) -> str | None:
    if depth > MOST_DEPTH:
        return f"nested deeper than {MOST_DEPTH} levels"
    if number > MOST_VALUES:
        return f"a request may hold {MOST_VALUES} values; send fewer"
    if isinstance(part, str) and "\0" in part:
        return "a NUL character cannot be stored"
    if isinstance(part, datetime) and not in_calendar(part):
        return "in UTC this is outside the years 1 to 9999"
    return None


def _members(part: object) -> Iterator[tuple[str | int, object]]:
    """Each member with the step that leads to it. A key is named by the object that it is in."""
    if isinstance(part, dict):
        for key, inner in cast("dict[str, object]", part).items():
            yield "", key
            yield key, inner
    elif isinstance(part, list):
        yield from enumerate(cast("list[object]", part))
