"""A caller over the rate limit gets 429 with `Retry-After`; other callers are not affected."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.embedded.nats_server import NatsServer
from tests.support.api import ApiProcess, api_process
from tests.support.caller import Caller

WHOAMI = "/api/v1/whoami"


@pytest.fixture(scope="module")
def api(
    shared_nats: NatsServer, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    limits = {"MUSTER_REQUESTS_PER_PRINCIPAL": "5 per hour"}
    with api_process(shared_nats.url, tmp_path_factory.mktemp("api"), shared_database_url, **limits) as process:
        yield process
        assert "Traceback" not in process.log()


async def test_caller_over_the_rate_limit_gets_retry_after_and_others_are_not_affected(api: ApiProcess):
    admin = Caller(api)
    ann, bob = await admin.issue(), await admin.issue()
    left = [int((await ann.ask("GET", WHOAMI)).headers["ratelimit-remaining"]) for _ in range(5)]
    refused = await ann.ask("GET", WHOAMI)

    assert left == [4, 3, 2, 1, 0]
    assert refused.problem.type == "urn:muster:problem:too_many"
    assert refused.headers["ratelimit-limit"] == "5"
    assert refused.headers["ratelimit-policy"] == "5;w=3600"
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    assert 3500 < int(refused.headers["retry-after"]) <= 3600  # until the window ends
    assert (await bob.ask("GET", WHOAMI)).status == 200
    assert (await Caller(api, None).ask("GET", "/ready")).status == 200


@pytest.mark.stress
async def test_caller_may_continue_after_the_retry_after_time(nats_url: str, shared_database_url: str, tmp_path: Path):
    limit = {"MUSTER_REQUESTS_PER_PRINCIPAL": "3 per 6 second"}
    with api_process(nats_url, tmp_path, shared_database_url, **limit) as api:
        key = await Caller(api).issue()
        told = await asyncio.gather(*(key.ask("GET", WHOAMI) for _ in range(20)))
        refused = [one for one in told if one.status == 429]
        assert refused
        assert {one.status for one in told} == {200, 429}
        wait_s = max(int(one.headers["retry-after"]) for one in refused)
        assert 1 <= wait_s <= 6
        await asyncio.sleep(wait_s)  # A client that obeys the header waits so long.
        assert (await key.ask("GET", WHOAMI)).status == 200
