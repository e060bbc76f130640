"""The time for which a sandbox runs at its provider, and its cost as an exact decimal."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

from muster.sandbox_gateway.provider_settings import parse_prices
from muster.sandbox_gateway.providers.interface import FoundSandbox
from muster.sandbox_gateway.sandboxes.domain.cost import (
    counting,
    model_cost,
    noted,
    ran_s,
    sandbox_cost,
    suspended,
    total,
)
from muster.sandbox_gateway.sandboxes.domain.lifecycle import SandboxRecord
from tests.unit.sandbox_gateway.sandboxes.test_lifecycle import CREATE

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)
RECORD = SandboxRecord(create=CREATE, host="h", provider="daytona", created_at=NOW)


def test_the_time_at_the_provider_ends_when_the_sandbox_is_stopped_and_goes_on_when_it_is_started() -> None:
    assert ran_s(RECORD, NOW + HOUR) == 0
    running = counting(RECORD, NOW, Decimal("0.1"))
    assert ran_s(running, NOW + HOUR) == 3_600
    assert counting(running, NOW + HOUR, Decimal(9)) == running  # A repeated start does not count anew.
    rested = suspended(running, NOW + HOUR)
    assert ran_s(rested, NOW + 9 * HOUR) == 3_600
    again = counting(rested, NOW + 9 * HOUR, None)
    assert ran_s(again, NOW + 10 * HOUR) == 7_200
    assert sandbox_cost(again, NOW + 10 * HOUR) == Decimal("0.2")
    deleted = suspended(again.moved("deleted"), NOW + 10 * HOUR)
    assert sandbox_cost(deleted, NOW + 99 * HOUR) == Decimal("0.2")
    assert counting(deleted, NOW + 99 * HOUR, None) == deleted


def test_amounts_are_exact_and_an_unknown_price_is_no_price() -> None:
    record = counting(RECORD, NOW, Decimal("0.1"))
    tenth = [sandbox_cost(record, NOW + HOUR / 10)] * 10
    assert total(*tenth) == Decimal("0.1")
    assert sandbox_cost(counting(RECORD, NOW, None), NOW + HOUR) is None
    assert sandbox_cost(counting(RECORD, NOW, Decimal(0)), NOW + HOUR) == 0
    assert total(None, model_cost(0.1), model_cost(0.2)) == Decimal("0.3")
    assert total(None, None) is None


def test_a_clock_that_runs_backwards_takes_no_time_away() -> None:
    assert ran_s(counting(RECORD, NOW, None), NOW - HOUR) == 0


def test_the_price_and_a_stop_at_the_provider_are_noted_once() -> None:
    found = FoundSandbox("sbx_1", NOW, running=False, usd_per_hour=Decimal("0.5"))
    running = msgspec.structs.replace(counting(RECORD, NOW, None), state="running")
    assert noted(running, found, NOW + HOUR) == msgspec.structs.replace(running, usd_per_hour=Decimal("0.5"))
    rested = noted(msgspec.structs.replace(running, state="stopped"), found, NOW + HOUR)
    assert (rested.suspended_at, rested.runs_since, sandbox_cost(rested, NOW + 3 * HOUR)) == (
        NOW + HOUR,
        None,
        Decimal("0.5"),
    )
    assert noted(rested, found, NOW + 2 * HOUR) == rested


def test_a_record_keeps_its_price_exactly_when_it_is_stored() -> None:
    record = counting(RECORD, NOW, Decimal("0.0000001"))
    assert msgspec.json.decode(msgspec.json.encode(record), type=SandboxRecord) == record


@pytest.mark.parametrize(
    "entries", ["daytona", "daytona=", "=1", "daytona=-1", "daytona=1e9", "daytona=nan", "a=1;b=2"]
)
def test_a_price_that_cannot_be_read_is_refused(entries: str) -> None:
    with pytest.raises(ValueError, match="price"):
        parse_prices(entries)


def test_prices_are_read_by_provider() -> None:
    assert parse_prices(" daytona=0.0504, mine = 2 ,") == {"daytona": Decimal("0.0504"), "mine": Decimal(2)}
