"""Chooses an agent for a request, and gives the reason why each other agent was not chosen."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.common.contracts.agent_registry import Considered
from muster.common.contracts.agents import AgentState
from muster.common.contracts.packages import Mode

MOST_EXPLAINED = 100
LONGEST_WHY = 1_000
"""The longest reason, in characters."""

_NOT_NOW: Final[dict[AgentState, str]] = {
    "starting": "is still starting",
    "degraded": "has missed heartbeats",
    "unresponsive": "is unresponsive",
    "stopping": "is stopping",
    "stopped": "is not running",
    "error": "is in error",
    "inactive": "is inactive",
    "quarantined": "is quarantined",
}
"""States in which an agent cannot take work now, each with the reason for the user."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that may be chosen, with its number of live tasks, and a reason if its package cannot be used."""

    agent: AgentRecord
    live_tasks: int
    package_trouble: str | None = None


class AgentRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of a request for an agent. An agent fits only if it meets all of them.

    `available`: the agent must be able to take a task or message now, and have fewer than `most_live` live tasks.
    """

    capabilities: Sequence[str] = ()
    package: str | None = None
    mode: Mode | None = None
    labels: dict[str, str] = {}
    available: bool = False
    most_live: int = 1


class AgentChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The best agent, or None if no agent fits, and for each considered agent the reason for or against it."""

    best: Candidate | None
    considered: list[Considered]


def choose(candidates: Iterable[Candidate], wanted: AgentRequirements) -> AgentChoice:
    """Choose the best agent that fits: ready before busy, then by fewest live tasks, greatest age and lowest id."""
    judged = sorted(
        ((reasons(one, wanted), one) for one in candidates), key=lambda pair: (len(pair[0]), *_order(pair[1]))
    )
    best = judged[0][1] if judged and not judged[0][0] else None
    considered = [
        Considered(
            agent_id=one.agent.agent_id,
            name=one.agent.name,
            chosen=one is best,
            why="; ".join(why)[:LONGEST_WHY] if why else _praise(one, best),
        )
        for why, one in judged[:MOST_EXPLAINED]
    ]
    return AgentChoice(best=best, considered=considered)


def reasons(candidate: Candidate, wanted: AgentRequirements) -> list[str]:
    """Return every reason why an agent does not fit the requirements; an empty list if it fits."""
    against = list(_unfit(candidate, wanted))
    if candidate.agent.state == "quarantined" or wanted.available:
        against += _hindrances(candidate, wanted)
    return against


def _unfit(candidate: Candidate, wanted: AgentRequirements) -> Iterable[str]:
    agent = candidate.agent
    if wanted.package not in (None, agent.package):
        yield f"is made from {agent.package}, not {wanted.package}"
    if candidate.package_trouble:
        yield candidate.package_trouble
    if wanted.mode not in (None, agent.mode):
        yield f"is of mode {agent.mode}, not {wanted.mode}"
    if missing := [name for name in wanted.capabilities if name not in agent.capabilities]:
        yield f"lacks {', '.join(missing)}"
    for key, value in wanted.labels.items():
        if (has := agent.spec.labels.get(key)) != value:
            yield f"has label {key}={has}, not {value}" if has is not None else f"has no label {key}={value}"


def _hindrances(candidate: Candidate, wanted: AgentRequirements) -> Iterable[str]:
    agent = candidate.agent
    if hindrance := _NOT_NOW.get(agent.state):
        yield f"{hindrance}: {agent.reason}" if agent.reason else hindrance
    elif agent.desired != "running":
        yield "has the desired state stopped"
    elif agent.mode == "process" and agent.state == "running":
        yield "is busy"
    elif candidate.live_tasks >= wanted.most_live:
        yield f"is busy with {_tasks(candidate.live_tasks)}"


def _order(candidate: Candidate) -> tuple[int, int, float, str]:
    agent = candidate.agent
    return readiness(agent), candidate.live_tasks, agent.created_at.timestamp(), agent.agent_id


def readiness(agent: AgentRecord) -> int:
    """Return 0 if the agent waits for work, 1 if it works, 2 if it cannot work yet.

    The SQL in `store.candidates` uses the same order.
    """
    if agent.desired != "running":
        return 2
    return {"idle": 0, "running": 1}.get(agent.state, 2)


def _praise(one: Candidate, best: Candidate | None) -> str:
    state = f"is {one.agent.state}" + (f" with {_tasks(one.live_tasks)}" if one.live_tasks else "")
    if best is None or one is best:
        return f"fits, and {state}"
    if readiness(one.agent) != readiness(best.agent):
        return f"fits, but {state}, and {best.agent.name} is {best.agent.state}"
    if one.live_tasks != best.live_tasks:
        return f"fits, but {state}, and {best.agent.name} has {_tasks(best.live_tasks)}"
    return f"fits as well as {best.agent.name}, which is older"


def _tasks(number: int) -> str:
    return f"{number or 'no'} live task{'' if number == 1 else 's'}"
