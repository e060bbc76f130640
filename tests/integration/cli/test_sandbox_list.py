"""`muster sandbox list` and `log` take the same options as the commands about tasks. The API is live."""

import msgspec

from tests.support.api import ApiProcess, neighbours
from tests.support.cli_api import muster

NO_TASK, RUNNING, STOPPED = f"tsk_{'0' * 26}", f"sbx_{'0' * 26}", f"sbx_{'1' * 26}"


async def test_list_shows_only_sandboxes_in_the_named_state(api: ApiProcess, nats_url: str) -> None:
    async with neighbours(nats_url) as doubles:
        for sandbox_id in (RUNNING, STOPPED):
            doubles.know_sandbox(sandbox_id, NO_TASK)
        doubles.known_sandboxes[STOPPED] = msgspec.structs.replace(doubles.known_sandboxes[STOPPED], state="stopped")
        listed = await muster(api, "sandbox", "ls", "-o", "name")
        stopped = await muster(api, "sandbox", "ls", "--state", "stopped", "-o", "name")
        fenced = await muster(api, "sandbox", "ls", "--state", "fenced")
        followed = await muster(api, "sandbox", "log", RUNNING, "--no-follow")
        wrong = await muster(api, "sandbox", "ls", "--state", "done")
    assert set(listed.out.split()) == {RUNNING, STOPPED}
    assert stopped.out.split() == [STOPPED]
    assert (fenced.code, fenced.out, fenced.err) == (0, "", "No sandbox is in the state fenced.\n")
    assert wrong.code == 2
    assert (followed.code, "no such task" in followed.err.lower() or "no task" in followed.err) == (3, True)
