"""Counts the time for which a sandbox runs at its provider, and what that costs.

The time begins when the sandbox is made, and ends when it is deleted or stopped at its provider. The price is recorded
with the sandbox, so that a later change of a setting does not change the cost of an earlier sandbox. Amounts are exact
decimals.
"""

from datetime import datetime
from decimal import Decimal

import msgspec

from muster.sandbox_gateway.providers.interface import FoundSandbox
from muster.sandbox_gateway.sandboxes.domain.lifecycle import AT_REST, SandboxRecord

_HOUR_S = Decimal(3_600)
_SMALLEST = Decimal("0.000001")
"""The smallest amount that is shown, in US dollars."""


def counting(record: SandboxRecord, now: datetime, price: Decimal | None) -> SandboxRecord:
    """Return the record of a sandbox that runs at its provider from now on, unless that is recorded already."""
    price = record.usd_per_hour if price is None else price
    if record.runs_since is not None or record.state == "deleted":
        return record
    return msgspec.structs.replace(record, runs_since=now, suspended_at=None, usd_per_hour=price)


def suspended(record: SandboxRecord, now: datetime) -> SandboxRecord:
    """Return the record of a sandbox that no longer runs at its provider from now on."""
    return msgspec.structs.replace(record, ran_s=ran_s(record, now), runs_since=None, suspended_at=now)


def noted(record: SandboxRecord, found: FoundSandbox, now: datetime) -> SandboxRecord:
    """Return the record with the facts that the provider shows: the price, and whether a sandbox at rest still runs."""
    if record.usd_per_hour is None and found.usd_per_hour is not None:
        record = msgspec.structs.replace(record, usd_per_hour=found.usd_per_hour)
    stopped = not found.running and record.state in AT_REST and record.runs_since is not None
    return suspended(record, now) if stopped else record


def ran_s(record: SandboxRecord, now: datetime) -> float:
    """Return the seconds for which a sandbox has run at its provider until now."""
    running_s = (now - record.runs_since).total_seconds() if record.runs_since else 0.0
    return record.ran_s + max(0.0, running_s)


def sandbox_cost(record: SandboxRecord, now: datetime) -> Decimal | None:
    """Return the cost of a sandbox so far in US dollars, without its model calls; None if its price is unknown."""
    if record.usd_per_hour is None:
        return None
    return (record.usd_per_hour * Decimal(str(ran_s(record, now))) / _HOUR_S).quantize(_SMALLEST)


def model_cost(cost_usd: float) -> Decimal:
    """Return the cost of model calls as a decimal. Model calls are metered with floating-point numbers."""
    return Decimal(str(cost_usd)).quantize(_SMALLEST)


def total(*parts: Decimal | None) -> Decimal | None:
    """Return the sum of the known parts; None if none is known."""
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if known else None
