"""Callers that ask at the same time are answered by few requests, each as if it had asked alone."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contracts.limits import LARGEST_PAGE
from muster.common.faults import NotFound, TimedOut, TooLarge, Unavailable
from muster.common.together import PATIENCE_S, Together
from tests.support.virtual_time import in_virtual_time

ROUND_TRIP_S = 0.01


class Place:
    """Where things are looked up: it counts what it was asked, and what it knows grows by one with each second."""

    def __init__(self, *, absent: Sequence[str] = (), round_trip_s: float = ROUND_TRIP_S) -> None:
        self.absent, self.round_trip_s = absent, round_trip_s
        self.asked: list[list[str]] = []
        self.fault: Exception | None = None
        self.together = Together(self._alone, self._several)

    async def _alone(self, entity_id: str) -> str:
        self.asked.append([entity_id])
        await asyncio.sleep(self.round_trip_s)
        if entity_id in self.absent:
            raise NotFound(f"there is no {entity_id}")
        return f"{entity_id}!"

    async def _several(self, ids: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(ids))
        await asyncio.sleep(self.round_trip_s)
        if self.fault:
            raise self.fault
        return {one: f"{one}!" for one in ids if one not in self.absent}

    async def all(self, *ids: str) -> list[str | BaseException]:
        return await asyncio.gather(*map(self.together.one, ids), return_exceptions=True)


@in_virtual_time
async def test_the_first_goes_alone_and_who_comes_meanwhile_goes_with_the_next() -> None:
    place = Place()

    assert await place.all("a", "b", "c") == ["a!", "b!", "c!"]
    assert place.asked == [["a"], ["b", "c"]]
    assert await place.together.one("d") == "d!"
    assert place.asked[2:] == [["d"]]


@in_virtual_time
async def test_one_that_is_not_there_is_told_so_as_if_he_were_alone() -> None:
    place = Place(absent=["c"])

    _, b, c, d = await place.all("a", "b", "c", "d")

    assert (b, str(c), d) == ("b!", "there is no c", "d!")
    assert place.asked == [["a"], ["b", "c", "d"], ["c"]]
    with pytest.raises(NotFound):
        await place.together.one("c")


@in_virtual_time
async def test_more_than_one_answer_holds_is_asked_for_one_by_one() -> None:
    place = Place()
    place.fault = TooLarge("ask for less")

    assert await place.all("a", "b", "c") == ["a!", "b!", "c!"]
    assert place.asked == [["a"], ["b", "c"], ["b"], ["c"]]


@pytest.mark.parametrize("fault", [Unavailable("nobody answers"), TimedOut("too late")])
@in_virtual_time
async def test_an_outage_is_told_to_all_at_once(fault: Exception) -> None:
    place = Place()
    place.fault = fault

    assert await place.all("a", "b", "c") == ["a!", fault, fault]
    assert place.asked == [["a"], ["b", "c"]]


@in_virtual_time
async def test_nobody_waits_longer_than_patience_for_a_slow_one() -> None:
    place, now = Place(round_trip_s=10), asyncio.get_running_loop().time
    slow = asyncio.ensure_future(place.together.one("slow"))
    await asyncio.sleep(1)
    place.round_trip_s = ROUND_TRIP_S
    began = now()

    assert await place.all("a", "b") == ["a!", "b!"]
    assert now() - began == pytest.approx(PATIENCE_S + ROUND_TRIP_S)
    assert not slow.done()
    assert await slow == "slow!"


@pytest.mark.parametrize("gives_up", range(4))
@in_virtual_time
async def test_who_gives_up_takes_nobody_with_him(gives_up: int) -> None:
    place = Place()
    asking = [asyncio.ensure_future(place.together.one(name)) for name in "abcd"]
    await asyncio.sleep(ROUND_TRIP_S * 1.5 if gives_up else ROUND_TRIP_S / 2)
    asking[gives_up].cancel()

    found = await asyncio.gather(*asking, return_exceptions=True)

    assert [one for at, one in enumerate(found) if at != gives_up] == [f"{x}!" for x in "abcd" if x != "abcd"[gives_up]]
    assert isinstance(found[gives_up], asyncio.CancelledError)
    assert await place.together.one("e") == "e!", "whoever comes later finds the way free"


@in_virtual_time
async def test_a_request_never_asks_for_more_than_a_page() -> None:
    place = Place()
    ids = [str(number) for number in range(3 * LARGEST_PAGE)]

    assert await place.all(*ids) == [f"{one}!" for one in ids]
    assert max(map(len, place.asked)) <= LARGEST_PAGE
    assert len(place.asked) <= 5


@given(seed=st.integers(0, 2**32), askers=st.integers(1, 40), round_trip_s=st.sampled_from([0.001, 0.02, 0.2]))
def test_no_answer_is_older_than_its_question(seed: int, askers: int, round_trip_s: float) -> None:
    chance = random.Random(seed)

    @in_virtual_time
    async def run() -> None:
        now = asyncio.get_running_loop().time

        async def look() -> float:
            await asyncio.sleep(chance.uniform(0, round_trip_s))
            seen = now()
            await asyncio.sleep(chance.uniform(0, round_trip_s))
            return seen

        async def alone(_: str) -> float:
            return await look()

        async def several(ids: Sequence[str]) -> dict[str, float]:
            seen = await look()
            return dict.fromkeys(ids, seen)

        together = Together(alone, several)

        async def ask() -> None:
            await asyncio.sleep(chance.uniform(0, 5 * round_trip_s))
            asked = now()
            assert await together.one(chance.choice("abc")) >= asked
            assert now() - asked <= 2 * round_trip_s + PATIENCE_S + 0.001

        await asyncio.gather(*(ask() for _ in range(askers)))

    run()
