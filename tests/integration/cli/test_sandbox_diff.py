"""`muster sandbox diff` says which events its record does not contain. The API is live, the gateway is a double."""

import msgspec

from tests.support.api import ApiProcess, neighbours
from tests.support.cli_api import muster

NO_TASK, SANDBOX = f"tsk_{'0' * 26}", f"sbx_{'0' * 26}"


async def test_diff_names_what_is_not_recorded_and_refuses_an_event_that_does_not_exist(api: ApiProcess, nats_url: str):
    async with neighbours(nats_url) as doubles:
        doubles.know_sandbox(SANDBOX, NO_TASK)
        view = doubles.known_sandboxes[SANDBOX]
        doubles.known_sandboxes[SANDBOX] = msgspec.structs.replace(view, next_seq=13)
        doubles.last_recorded = 12
        behind = await muster(api, "sandbox", "diff", SANDBOX)
        complete = await muster(api, "sandbox", "diff", SANDBOX, "--at", "12")
        unknown = await muster(api, "sandbox", "diff", SANDBOX, "--at", "13")
    assert (behind.code, "changes after event 9" in behind.err) == (0, True)
    assert (complete.code, "are missing" in complete.err) == (0, False)
    assert (unknown.code, unknown.out, "its last event is 12" in unknown.err) == (3, "", True)
