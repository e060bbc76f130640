"""The weakest isolation level that a stack permits, from the user's settings and the option `--isolation`."""

from collections.abc import Mapping

from muster.common.configuration_file import configured_as
from muster.common.faults import InvalidMessage
from muster.common.isolation_levels import LEVELS, STRONGEST, IsolationLevel
from muster.shim.protocol import IsolationChoice

_NAME, _VARIABLE = "isolation_at_least", "MUSTER_ISOLATION_AT_LEAST"
_SECTIONS = ("sandbox_gateway", "agent_manager")


def required_isolation(user: Mapping[str, str]) -> IsolationLevel | None:
    """Return the user's setting `isolation_at_least`, or None if it is not set.

    If the tables of the configuration file differ, the strongest level applies, because all services share one shim.
    Raises `InvalidMessage` for a value that is no level, and `ConfigurationError`.
    """
    said = [user[_VARIABLE]] if user.get(_VARIABLE) else [configured_as(table, _NAME, user) for table in _SECTIONS]
    for value in filter(None, said):
        if value not in LEVELS:
            raise InvalidMessage(
                f"{_VARIABLE} is {value!r}, which is no isolation level; choose one of {', '.join(LEVELS)}",
                field=f"$.{_NAME}",
            )
    return next((level for level in LEVELS if level in said), None)


def isolation_floor(user: Mapping[str, str], wanted: IsolationChoice) -> IsolationLevel:
    """Return the weakest isolation level that a stack permits. A level that is asked for permits itself."""
    return required_isolation(user) or (STRONGEST if wanted == "auto" else wanted)
