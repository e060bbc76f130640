"""An accepted result becomes one commit, one branch and one pull request, however often it is delivered."""

import asyncio
import os
import shutil
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from muster.common.contracts.gateway import DeliverResult
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.faults import Forbidden, InvalidMessage, Unavailable
from muster.common.withheld_diffs import withheld
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.mirror_cache import CacheLimits, MirrorCache
from muster.sandbox_gateway.repositories.adapters.pushes import ResultCommits
from muster.sandbox_gateway.repositories.domain.deliveries import pull_request_text
from muster.sandbox_gateway.repositories.handlers.deliveries import Deliveries
from tests.support.forge_double import ForgeDouble, forge_double
from tests.support.git_server import GitServer, committed, git, git_server, host_rules, repository

_TOKEN = {"GIT_TOKEN": "hidden-token"}


class Forge:
    """A host with a repository `team/a` and the API of a forge."""

    def __init__(self, home: Path, server: GitServer, api: ForgeDouble) -> None:
        self.home, self.server, self.api = home, server, api
        self.repo = server.root / "team" / "a"
        self.base = git(self.repo, "rev-parse", "HEAD")
        (self.repo / "a.txt").write_text("better\n")
        (self.repo / "new.txt").write_text("new\n")
        git(self.repo, "add", "-A")
        self.diff = git(self.repo, "diff", "--cached", "--binary", "--full-index")
        git(self.repo, "reset", "-q", "--hard")

    def gateway(self, toml: str = 'token_env = "GIT_TOKEN"\n', env: Mapping[str, str] = _TOKEN) -> Deliveries:
        """Return a gateway process that has just started."""
        api = f'forge = "{self.api.kind}"\napi_url = "{self.api.url}"\n'
        hosts = host_rules(self.home, self.server.toml(api + toml), env)
        cache = MirrorCache(self.home / "repositories", hosts, CacheLimits(1 << 30, 1 << 30, 30.0, 600.0))
        return Deliveries(AllowedRepositories([self.home], hosts), hosts, ResultCommits(cache), deadline_s=30.0)

    def result(self, *, pull_request: bool = True, **fields: object) -> DeliverResult:
        result = DeliverResult(
            task_id="tsk_1",
            repo=Repo(url=self.server.url("team/a.git")),
            deliver=Deliver(pull_request=pull_request),
            branch="muster/tsk_1",
            base=self.base,
            diff=self.diff,
            accepted_at=datetime(2026, 11, 30, 20, 0, tzinfo=UTC),
            title="Mend it",
            summary="I mended it.",
            validation="exit 0",
        )
        return msgspec.structs.replace(result, **fields)

    def branches(self) -> list[str]:
        return git(self.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()


@pytest.fixture(params=["github", pytest.param("gitlab", marks=pytest.mark.stress)])
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Forge]:
    repository(tmp_path / "served" / "team" / "a")
    (tmp_path / "served" / "team" / "a.git").symlink_to("a/.git")
    with git_server(tmp_path / "served") as server, forge_double(request.param) as api:
        server.token = "hidden-token"
        yield Forge(tmp_path, server, api)


async def test_result_is_pushed_and_a_pull_request_is_opened(forge: Forge) -> None:
    delivered = await forge.gateway().deliver(forge.result())
    assert git(forge.repo, "rev-parse", "muster/tsk_1") == delivered.commit
    assert git(forge.repo, "rev-parse", "muster/tsk_1^") == forge.base
    assert git(forge.repo, "show", "muster/tsk_1:a.txt") == "better"
    assert git(forge.repo, "show", "muster/tsk_1:new.txt") == "new"
    said = git(forge.repo, "log", "-1", "--format=%s|%ct|%B", "muster/tsk_1")
    assert said.startswith("Mend it|1796068800|")
    assert "Muster-Task: tsk_1" in said
    (opened,) = forge.api.requests
    names = forge.api.names
    assert (opened[names["source"]], opened[names["target"]], opened["title"]) == ("muster/tsk_1", "main", "Mend it")
    assert "I mended it." in opened[names["text"]]
    assert "exit 0" in opened[names["text"]]
    assert delivered.url == opened[names["url"]]
    assert (
        forge.api.paths[0]
        == {"github": "/repos/team/a/pulls", "gitlab": "/projects/team/a/merge_requests"}[forge.api.kind]
    )


async def test_repeated_delivery_after_any_crash_makes_one_branch_and_one_request(forge: Forge) -> None:
    forge.api.status = 503  # The gateway dies after the push.
    with pytest.raises(Unavailable):
        await forge.gateway().deliver(forge.result())
    forge.api.status, forge.api.lost_answers = 0, 1  # The gateway dies after the request was opened.
    with pytest.raises(Unavailable):
        await forge.gateway().deliver(forge.result())
    gateways = [forge.gateway(), forge.gateway()]
    answers = await asyncio.gather(*(gateways[n % 2].deliver(forge.result()) for n in range(4)))
    assert len({*map(msgspec.json.encode, answers)}) == 1
    assert forge.branches() == ["main", "muster/tsk_1"]
    assert len(forge.api.requests) == 1


@pytest.mark.stress
async def test_merged_request_is_found_and_its_deleted_branch_is_not_made_again(forge: Forge) -> None:
    first = await forge.gateway().deliver(forge.result())
    forge.api.requests[0]["state"] = "closed" if forge.api.kind == "github" else "merged"
    git(forge.repo, "branch", "-D", "muster/tsk_1")
    assert await forge.gateway().deliver(forge.result()) == first
    assert forge.branches() == ["main"]
    assert len(forge.api.requests) == 1


@pytest.fixture
def github(tmp_path: Path) -> Generator[Forge]:
    repository(tmp_path / "served" / "team" / "a")
    (tmp_path / "served" / "team" / "a.git").symlink_to("a/.git")
    with git_server(tmp_path / "served") as server, forge_double("github") as api:
        server.token = "hidden-token"
        yield Forge(tmp_path, server, api)


@pytest.mark.stress
async def test_commits_of_others_are_never_overwritten(github: Forge) -> None:
    git(github.repo, "checkout", "-q", "-b", "taken")
    committed(github.repo, {"b.txt": "of another\n"})
    taken = git(github.repo, "rev-parse", "taken")
    with pytest.raises(InvalidMessage, match="has a branch taken with other commits") as refused:
        await github.gateway().deliver(github.result(branch="taken"))
    assert refused.value.field == "$.deliver.branch"
    assert git(github.repo, "rev-parse", "taken") == taken
    assert github.api.requests == []


@pytest.mark.stress
async def test_branch_with_later_commits_counts_as_delivered(github: Forge) -> None:
    first = await github.gateway().deliver(github.result(pull_request=False))
    git(github.repo, "checkout", "-q", "muster/tsk_1")
    committed(github.repo, {"b.txt": "of a reviewer\n"})
    assert await github.gateway().deliver(github.result(pull_request=False)) == first
    assert git(github.repo, "log", "-1", "--format=%s", "muster/tsk_1") == "change"


async def test_credential_without_the_right_to_push_is_refused_with_a_sentence(github: Forge) -> None:
    github.server.pushes = False
    with pytest.raises(Forbidden, match=r"Give the credential in git\.toml the right to push") as refused:
        await github.gateway().deliver(github.result())
    assert "hidden-token" not in str(refused.value)
    assert github.branches() == ["main"]


@pytest.mark.stress
async def test_push_that_a_hook_of_the_host_refuses_is_refused_with_its_reason(github: Forge) -> None:
    hook = github.repo / ".git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'branches of robots are closed' >&2\nexit 1\n")
    hook.chmod(0o700)
    with pytest.raises(Forbidden, match="pre-receive hook declined") as refused:
        await github.gateway().deliver(github.result())
    assert refused.value.field == "$.deliver.branch", "nothing was pushed, so another branch may be named"


@pytest.mark.stress
async def test_token_without_the_right_to_open_requests_is_refused(github: Forge) -> None:
    github.api.status = 403
    with pytest.raises(Forbidden, match="status 403: not today"):
        await github.gateway().deliver(github.result())


async def test_rate_limit_of_a_forge_is_waited_for(github: Forge) -> None:
    github.api.status, github.api.headers = 403, {"Retry-After": "120"}
    with pytest.raises(Unavailable, match="no further requests for a while: not today") as limited:
        await github.gateway().deliver(github.result())
    assert limited.value.retry_after_s == 120
    github.api.status, github.api.headers = 0, {}
    assert (await github.gateway().deliver(github.result())).url


async def test_diff_that_does_not_apply_and_unknown_base_are_refused(github: Forge) -> None:
    with pytest.raises(InvalidMessage, match="does not apply"):
        await github.gateway().deliver(github.result(diff=github.diff.replace("mine", "other")))
    with pytest.raises(InvalidMessage, match="no branch, tag or commit"):
        await github.gateway().deliver(github.result(base="0" * 39 + "1"))
    evil = "diff --git a/x b/../../x\nnew file mode 100644\n--- /dev/null\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(InvalidMessage, match="does not apply"):
        await github.gateway().deliver(github.result(diff=evil))
    assert github.branches() == ["main"]


@pytest.mark.parametrize("command", ["read-tree", "apply", "write-tree", "commit-tree"])
async def test_full_disk_during_a_delivery_never_changes_the_commit(
    github: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    full, real = tmp_path / "full", shutil.which("git")
    full.touch()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "git"
    program.write_text(
        f'#!/bin/sh\ncase "$* " in *" {command} "*) test -e {full} && echo "fatal: unable to write new_index file" >&2 '
        f'&& exit 128;; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(Unavailable, match="unable to write"):
        await github.gateway().deliver(github.result(pull_request=False))
    assert github.branches() == ["main"]
    full.unlink()
    await github.gateway().deliver(github.result(pull_request=False))
    assert git(github.repo, "diff", "--name-only", "main", "muster/tsk_1").split() == ["a.txt", "new.txt"]


async def test_diff_in_which_a_secret_of_the_gateway_was_replaced_is_not_delivered(github: Forge) -> None:
    diff = withheld(github.diff, ["token of github.com", "NATS password"])
    with pytest.raises(InvalidMessage, match=r"secrets of the gateway \(token of github\.com, NATS password\)"):
        await github.gateway().deliver(github.result(diff=diff))
    assert github.branches() == ["main"]


@pytest.mark.stress
async def test_objects_of_a_delivery_do_not_reach_the_copies_of_other_sandboxes(github: Forge) -> None:
    delivered = await github.gateway().deliver(github.result(pull_request=False))
    (entry,) = (github.home / "repositories").iterdir()
    assert not list(entry.glob("new.*"))
    assert delivered.commit not in git(entry / "repo.git", "cat-file", "--batch-check", "--batch-all-objects")


@pytest.mark.parametrize(
    ("toml", "url", "says"),
    [
        ("", None, "no credential"),
        ('token_env = "GIT_TOKEN"\npush = false', None, "does not allow pushes"),
        ('token_env = "GIT_TOKEN"', "local", "the local repository .* has no pull requests"),
        ('token_env = "GIT_TOKEN"', "https://other.invalid/a", "no credential"),
    ],
)
def test_delivery_that_can_never_work_is_refused_at_submission(
    github: Forge, toml: str, url: str | None, says: str
) -> None:
    repo = Repo(url=github.repo.as_uri() if url == "local" else url or github.server.url("team/a.git"))
    with pytest.raises(InvalidMessage, match=says) as refused:
        github.gateway(toml).check(repo, Deliver(pull_request=url == "local"))
    assert (refused.value.field or "").startswith("$.deliver")
    github.gateway().check(Repo(url=github.server.url("team/a.git")), Deliver(pull_request=True))


def test_text_of_a_request_notifies_nobody_and_keeps_its_code_block(github: Forge) -> None:
    text = pull_request_text(github.result(summary="Ask @everyone", validation="```\n# not a heading"))
    assert "@everyone" not in text
    assert "````text\n```\n# not a heading\n````" in text
