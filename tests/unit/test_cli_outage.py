"""A feed that is cut is told of once, and waited for from its cut on."""

import asyncio

import pytest

from muster.cli.outage import LONGEST_S, Outage
from muster.cli.output import Exit
from muster.cli.refusal import Refusal
from tests.support.virtual_time import in_virtual_time

AWAY = Refusal("cannot reach it", Exit.UNREACHABLE)


@in_virtual_time
async def test_an_outage_after_a_long_quiet_is_waited_for_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    outage = Outage()
    await asyncio.sleep(10 * LONGEST_S)
    for _ in range(2):
        for _ in range(20):
            outage.bear(AWAY)
            await asyncio.sleep(0.5)
        outage.over()
    assert capsys.readouterr().err == "muster: cannot reach it; still trying\n" * 2

    outage.bear(AWAY)
    await asyncio.sleep(LONGEST_S + 1)
    with pytest.raises(Refusal, match="cannot reach it"):
        outage.bear(AWAY)


@in_virtual_time
async def test_what_does_not_pass_is_not_waited_for() -> None:
    with pytest.raises(Refusal, match="no such task"):
        Outage().bear(Refusal("no such task", Exit.NOT_FOUND, status=404))
