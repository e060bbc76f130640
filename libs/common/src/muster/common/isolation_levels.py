"""The levels at which the shim isolates local processes from their host, strongest first."""

from typing import Final, Literal, get_args

from muster.common.faults import Unavailable

IsolationLevel = Literal["bubblewrap", "landlock", "pid-namespace", "plain"]
LEVELS: Final[tuple[IsolationLevel, ...]] = get_args(IsolationLevel)
STRONGEST: Final[IsolationLevel] = LEVELS[0]


def at_least(level: str, least: IsolationLevel) -> bool:
    """Whether `level` isolates at least as much as `least`. An unknown level counts as `plain`."""
    return (LEVELS.index(level) if level in LEVELS else len(LEVELS) - 1) <= LEVELS.index(least)


def refuse_weaker(level: str, least: IsolationLevel | None) -> None:
    """Raise `Unavailable` if a shim with this isolation level is weaker than `least`."""
    if least and not at_least(level, least):
        raise Unavailable(
            f"the shim of this host isolates workers at the level {level}, and MUSTER_ISOLATION_AT_LEAST is {least}; "
            f"restart the shim with a stronger level, or permit this one: MUSTER_ISOLATION_AT_LEAST={level}"
        )
