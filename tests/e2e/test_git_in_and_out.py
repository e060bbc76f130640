"""A whole stack works on a private remote repository and opens a pull request, and the token stays in the gateway."""

import secrets
from pathlib import Path

import pytest

from muster.client import AsyncMuster
from muster.common.contracts.task_bodies import NewDeliver, NewRepo, NewTask
from muster.common.contracts.tasks import TaskView
from tests.support.eventually import eventually
from tests.support.forge_double import forge_double
from tests.support.git_server import git, git_server, repository
from tests.support.whole_stack import WholeStack

_ENDED = {"completed", "failed", "cancelled"}


async def _ended(client: AsyncMuster, task_id: str) -> TaskView:
    return await eventually(lambda: client.tasks.get(task_id), lambda view: view.state in _ENDED)


@pytest.mark.stress
@pytest.mark.timeout(150)
async def test_private_repository_is_cloned_by_the_gateway_and_its_result_is_a_pull_request(
    whole: WholeStack, tmp_path: Path
) -> None:
    token, data = secrets.token_hex(20), whole.stack.data_dir
    files = {"a.txt": "mine\n", ".gitattributes": "*.bin filter=lfs -text\n"}
    repo = repository(tmp_path / "served" / "team" / "a", files)
    base = git(repo, "rev-parse", "HEAD")
    with git_server(tmp_path / "served") as server, forge_double("github") as api:
        server.token = api.token = token
        (data / "git.token").touch(mode=0o600)
        (data / "git.token").write_text(token)
        entry = f'token_file = "git.token"\nforge = "github"\napi_url = "{api.url}"\n'
        (data / "git.toml").write_text(server.toml(entry))
        new = NewTask(
            objective="Mend a.txt",
            package="echo",
            repo=NewRepo(url=server.url("team/a"), ref="main"),
            test_command="grep better a.txt && git log --oneline | cat && env",
            deliver=NewDeliver(pull_request=True),
            metadata={
                "steps": [
                    {"write": {"path": "a.txt", "text": "better\n"}},
                    {"finish": "success", "summary": "I mended it."},
                ]
            },
        )
        async with AsyncMuster(whole.stack.api_url, whole.stack.admin_key) as client:
            done = await _ended(client, (await client.tasks.submit(new)).task_id)
            transfers = server.transfers
            again = NewTask(objective="Look", package="echo", repo=NewRepo(url=server.url("team/a"), ref=base))
            await _ended(client, (await client.tasks.submit(again)).task_id)
            sent = [event async for event in client.tasks.events(done.task_id)]
        assert done.state == "completed", done.error
        assert done.delivery is not None
        assert (done.delivery.state, done.base_commit) == ("delivered", base)
        assert git(repo, "show", f"muster/{done.task_id}:a.txt") == "better"
        (opened,) = api.requests
        assert (opened["base"], opened["title"], done.delivery.url) == ("main", "Mend a.txt", opened["html_url"])
        assert "I mended it." in opened["body"]
        assert "better" in opened["body"]
        assert server.transfers == transfers, "the second task on a repository needs no transfer"
    text = repr(sent)
    assert "Git LFS is not supported" in text
    assert token not in text + repr(done)
    for file in data.rglob("*"):
        if file.is_file() and file.name != "git.token":
            assert token.encode() not in file.read_bytes(), file
