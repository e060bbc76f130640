"""The isolation of the local provider's processes, as the health of the gateway shows it."""

from muster.common.faults import Fault
from muster.common.isolation_levels import IsolationLevel, refuse_weaker
from muster.shim.client import ShimClient

_HEALTH_S = 1.0
"""Seconds that a request for the health of the gateway waits for the shim."""


async def shim_health(shim: ShimClient, at_least: IsolationLevel) -> dict[str, str]:
    """Return the `isolation` of the shim and the reason as `why`.

    If the shim does not answer or isolates less than `at_least`, the isolation is `none`, and the reason says so.
    """
    try:
        found = await shim.probe(deadline_s=_HEALTH_S)
        refuse_weaker(found.level, at_least)
    except Fault as fault:
        return {"isolation": "none", "why": str(fault)}
    return {"isolation": found.level, "why": found.why}
