"""A result is delivered to a local repository as a new branch. Nothing that exists there is changed or executed."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from muster.common.contracts.gateway import DeliverResult
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.faults import InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.mirror_cache import CacheLimits, MirrorCache
from muster.sandbox_gateway.repositories.adapters.pushes import ResultCommits
from muster.sandbox_gateway.repositories.handlers.deliveries import Deliveries
from tests.support.git_server import committed, git, host_rules, repository

BRANCH = "muster/tsk_1"


class Local:
    """A repository below the allowed root, with a result for it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repo = repository(home / "repos" / "a")
        self.base = git(self.repo, "rev-parse", "HEAD")
        (self.repo / "a.txt").write_text("better\n")
        (self.repo / "new.bin").write_bytes(bytes(range(256)))
        git(self.repo, "add", "-A")
        self.diff = git(self.repo, "diff", "--cached", "--binary", "--full-index")
        git(self.repo, "reset", "-q", "--hard")

    def gateway(self, *, into_local: bool = True) -> Deliveries:
        """Return a gateway process that has just started."""
        hosts = host_rules(self.home)
        commits = ResultCommits(MirrorCache(self.home / "cache", hosts, CacheLimits(1 << 30, 1 << 30, 30.0, 600.0)))
        allowed = AllowedRepositories([self.home / "repos"], hosts)
        return Deliveries(allowed, hosts, commits, deadline_s=30.0, into_local=into_local)

    def result(self, path: Path | None = None, **fields: object) -> DeliverResult:
        result = DeliverResult(
            task_id="tsk_1",
            repo=Repo(url=(path or self.repo).as_uri()),
            deliver=Deliver(),
            branch=BRANCH,
            base=self.base,
            diff=self.diff,
            accepted_at=datetime(2026, 11, 30, 20, 0, tzinfo=UTC),
            title="Mend it",
        )
        return msgspec.structs.replace(result, **fields)

    def branches(self) -> list[str]:
        return git(self.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


async def test_result_becomes_a_branch_and_the_work_tree_stays_as_it_is(local: Local) -> None:
    (local.repo / "a.txt").write_text("mine, not committed\n")
    before = git(local.repo, "status", "--porcelain")
    gateways = [local.gateway(), local.gateway()]
    answers = await asyncio.gather(*(gateways[n % 2].deliver(local.result()) for n in range(4)))
    assert len({answer.commit for answer in answers}) == 1
    assert git(local.repo, "rev-parse", BRANCH) == answers[0].commit
    assert git(local.repo, "rev-parse", f"{BRANCH}^") == local.base
    assert git(local.repo, "show", f"{BRANCH}:a.txt") == "better"
    assert local.branches() == ["main", BRANCH]
    assert git(local.repo, "symbolic-ref", "HEAD") == "refs/heads/main"
    assert git(local.repo, "status", "--porcelain") == before
    assert (local.repo / "a.txt").read_text() == "mine, not committed\n"
    git(local.repo, "fsck", "--strict")
    assert not list((local.repo / ".git").rglob("*.lock"))


@pytest.mark.stress
async def test_bare_repository_with_packed_branches_gets_the_branch(local: Local) -> None:
    bare = local.home / "repos" / "bare.git"
    git(local.repo, "clone", "-q", "--bare", str(local.repo), str(bare))
    git(bare, "gc", "-q")
    done = await local.gateway().deliver(local.result(bare))
    git(bare, "pack-refs", "--all")
    assert await local.gateway().deliver(local.result(bare)) == done
    assert git(bare, "rev-parse", BRANCH) == done.commit
    git(bare, "fsck", "--strict")


async def test_nothing_of_the_repository_is_executed(local: Local) -> None:
    touched = local.home / "executed"
    for name in ("pre-receive", "update", "post-receive", "reference-transaction", "post-index-change"):
        hook = local.repo / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {touched}\n")
        hook.chmod(0o700)
    for name in ("core.fsmonitor", "core.alternateRefsCommand", "filter.x.clean", "core.sshCommand"):
        git(local.repo, "config", name, f"touch {touched}")
    touched.unlink(missing_ok=True)
    await local.gateway().deliver(local.result())
    assert not touched.exists()


async def test_branch_that_is_checked_out_or_belongs_to_others_is_never_changed(local: Local) -> None:
    git(local.repo, "checkout", "-q", "-b", "taken")
    committed(local.repo, {"b.txt": "of another\n"})
    git(local.repo, "checkout", "-q", "--orphan", "unborn")
    git(local.repo, "pack-refs", "--all")
    before = git(local.repo, "show-ref")
    for branch, says in (
        ("taken", "has a branch taken with other commits"),
        ("unborn", "is checked out"),
        ("taken/below", "another branch whose name"),
    ):
        with pytest.raises(InvalidMessage, match=says) as refused:
            await local.gateway().deliver(local.result(branch=branch))
        assert refused.value.field == "$.deliver.branch"
    assert git(local.repo, "show-ref") == before


@pytest.mark.stress
async def test_branch_of_another_work_tree_is_never_changed(local: Local) -> None:
    git(local.repo, "worktree", "add", "-q", "--detach", str(local.home / "tree"))
    git(local.home / "tree", "checkout", "-q", "--orphan", "second")
    with pytest.raises(InvalidMessage, match="is checked out"):
        await local.gateway().deliver(local.result(branch="second"))


@pytest.mark.stress
async def test_branch_with_later_commits_counts_as_delivered(local: Local) -> None:
    first = await local.gateway().deliver(local.result())
    git(local.repo, "checkout", "-q", BRANCH)
    committed(local.repo, {"b.txt": "of a reviewer\n"})
    assert await local.gateway().deliver(local.result()) == first


@pytest.mark.stress
@pytest.mark.parametrize("place", ["refs/heads/muster", "objects/ab"])
async def test_links_out_of_the_repository_are_not_followed(local: Local, place: str) -> None:
    outside = local.home / "outside"
    outside.mkdir()
    (local.repo / ".git" / place).symlink_to(outside)
    with pytest.raises(InvalidMessage):
        await local.gateway().deliver(local.result())
    assert list(outside.iterdir()) == []
    assert local.branches() == ["main"]


@pytest.mark.stress
async def test_lock_of_another_git_process_is_waited_for(local: Local) -> None:
    lock = local.repo / ".git" / "refs" / "heads" / f"{BRANCH}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(Unavailable, match="another git process"):
        await local.gateway().deliver(local.result())
    lock.unlink()
    assert (await local.gateway().deliver(local.result())).commit


async def test_result_that_does_not_fit_and_closed_deployments_are_refused(local: Local) -> None:
    with pytest.raises(InvalidMessage, match="no longer contains the commit"):
        await local.gateway().deliver(local.result(base="0" * 39 + "1"))
    closed = local.gateway(into_local=False)
    with pytest.raises(InvalidMessage, match="MUSTER_REPO_PUSH=false"):
        closed.check(local.result().repo, Deliver())
    with pytest.raises(InvalidMessage, match="MUSTER_REPO_PUSH=false"):
        await closed.deliver(local.result())
    with pytest.raises(InvalidMessage, match="has no pull requests") as refused:
        local.gateway().check(local.result().repo, Deliver(pull_request=True))
    assert refused.value.field == "$.deliver.pull_request"
    assert local.branches() == ["main"]
