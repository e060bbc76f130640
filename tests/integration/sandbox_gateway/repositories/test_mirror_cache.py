"""Remote repositories are copied once, with their credential, and without obeying a hostile host or repository."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from muster.common.contracts.task_spec import Repo
from muster.common.faults import Fault, InvalidMessage, Unavailable
from muster.sandbox_gateway.repositories.adapters import cache_space, mirror_cache
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.copies import RepositoryCopies
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules
from muster.sandbox_gateway.repositories.adapters.mirror_cache import CacheLimits, MirrorCache
from muster.sandbox_gateway.repositories.domain.remote_refs import RemoteRefs
from tests.support.git_server import GitServer, committed, git, git_server, host_rules, repository


class Gateway:
    """A gateway's cache and the copies that it makes for sandboxes."""

    def __init__(
        self,
        home: Path,
        hosts: GitHostRules,
        *,
        repository_bytes: int = 1 << 30,
        total_bytes: int = 1 << 30,
        deadline_s: float = 60.0,
        fresh_s: float = 600.0,
    ) -> None:
        self.root, self._sandboxes = home / "repositories", home / "sandboxes"
        self._sandboxes.mkdir(exist_ok=True)
        limits = CacheLimits(repository_bytes, total_bytes, deadline_s, fresh_s)
        self.copies = RepositoryCopies(AllowedRepositories([], hosts), MirrorCache(self.root, hosts, limits))

    async def copy(self, url: str, ref: str | None = None, *, name: str = "") -> Path:
        """Make the copy of a new sandbox."""
        target = self._sandboxes / (name or f"sbx{len(list(self._sandboxes.iterdir()))}")
        await self.copies.copy_for(Repo(url=url, ref=ref), target)
        return target


@pytest.fixture
def server(tmp_path: Path) -> Generator[GitServer]:
    repository(tmp_path / "served" / "a")
    with git_server(tmp_path / "served") as server:
        yield server


def subject(copy: Path, ref: str = "HEAD") -> str:
    return git(copy, "show", f"{ref}:a.txt")


async def test_second_task_on_a_repository_needs_no_transfer(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    git(server.root / "a", "tag", "v1")
    assert subject(await gateway.copy(server.url("a"))) == "mine"
    seen = len(server.requests)
    for ref in (None, "main", "v1", git(server.root / "a", "rev-parse", "HEAD")):
        await gateway.copy(server.url("a"), ref)
    again = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    await again.copy(server.url("a"))
    assert len(server.requests) == seen


@pytest.mark.stress
async def test_old_copy_is_compared_and_fetched_only_if_a_branch_has_moved(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), fresh_s=0.0)
    repo = server.root / "a"
    await gateway.copy(server.url("a"))
    first, commit = server.transfers, git(repo, "rev-parse", "HEAD")
    await gateway.copy(server.url("a"))
    assert server.transfers == first + 1
    await gateway.copy(server.url("a"), commit)
    assert server.transfers == first + 1
    committed(repo, {"a.txt": "later\n"})
    git(repo, "branch", "-m", "trunk")
    assert subject(await gateway.copy(server.url("a"))) == "later"
    with pytest.raises(InvalidMessage, match="no branch, tag or commit main"):
        await gateway.copy(server.url("a"), "main")


async def test_unknown_ref_is_fetched_at_once_and_refused_if_the_host_has_none(
    server: GitServer, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    await gateway.copy(server.url("a"))
    committed(server.root / "a", {"a.txt": "new\n"})
    commit = git(server.root / "a", "rev-parse", "HEAD")
    assert subject(await gateway.copy(server.url("a"), commit[:12]), commit) == "new"
    with pytest.raises(InvalidMessage) as refused:
        await gateway.copy(server.url("a"), "none")
    assert refused.value.field == "$.repo.ref"


@pytest.mark.stress
async def test_many_tasks_and_two_gateways_fetch_a_repository_once(server: GitServer, tmp_path: Path) -> None:
    gateways = [Gateway(tmp_path, host_rules(tmp_path, server.toml())) for _ in range(2)]
    await asyncio.gather(*(gateways[n % 2].copy(server.url("a"), name=f"s{n}") for n in range(8)))
    assert (server.transfers, len(server.requests)) == (3, 5)  # One process asks for the refs, another one fetches.


@pytest.mark.stress
async def test_gateway_waits_for_the_fetch_of_another_process(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), fresh_s=0.0)
    await gateway.copy(server.url("a"))
    (entry,) = gateway.root.iterdir()
    hold = (
        f"import fcntl; f = open({str(entry / 'lock')!r}); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", hold), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    await other.stdout.readline()
    seen = len(server.requests)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await gateway.copy(server.url("a"), name="late")
    assert len(server.requests) == seen
    await other.communicate(b"\n")
    await gateway.copy(server.url("a"), name="late")


async def test_private_repository_is_copied_and_the_token_is_nowhere(server: GitServer, tmp_path: Path) -> None:
    server.token = "hidden-token"
    hosts = host_rules(tmp_path, server.toml('token_env = "GIT_TOKEN"'), {"GIT_TOKEN": "hidden-token"})
    copy = await Gateway(tmp_path, hosts).copy(server.url("a"))
    assert subject(copy) == "mine"
    for folder in (copy, tmp_path / "repositories"):
        for file in folder.rglob("*"):
            assert not file.is_file() or b"hidden" not in file.read_bytes()
    # Without the credential, the copy that was made with it is not used.
    with pytest.raises(InvalidMessage, match="operator can add"):
        await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))


@pytest.mark.stress
async def test_token_is_not_in_the_arguments_of_git(server: GitServer, tmp_path: Path) -> None:
    server.token, server.bytes_per_s = "hidden-token", 1_000
    hosts = host_rules(tmp_path, server.toml('token_env = "GIT_TOKEN"'), {"GIT_TOKEN": "hidden-token"})
    copying = asyncio.ensure_future(Gateway(tmp_path, hosts).copy(server.url("a")))
    seen = list[bytes]()
    while not copying.done():
        await asyncio.sleep(0.02)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen.append((process / "cmdline").read_bytes())
            except OSError:
                continue
    assert any(server.url("a").encode() in words for words in seen)
    assert not any(b"hidden" in words for words in seen)
    await copying


async def test_token_is_not_sent_to_the_target_of_a_redirect(server: GitServer, tmp_path: Path) -> None:
    with git_server(server.root) as other:
        server.status, server.location = 302, other.url("a/info/refs?service=git-upload-pack")
        hosts = host_rules(tmp_path, server.toml('token_env = "GIT_TOKEN"'), {"GIT_TOKEN": "hidden-token"})
        with pytest.raises(InvalidMessage, match="redirects"):
            await Gateway(tmp_path, hosts).copy(server.url("a"))
        assert server.credentials[0].startswith("Basic ")
        assert other.requests == []


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, InvalidMessage, "git.toml has no credential"),
        (404, InvalidMessage, "has no repository a, or it is private"),
        (503, Unavailable, "did not send the repository a"),
        (200, InvalidMessage, "a has no commit, or its host speaks no git"),
    ],
)
async def test_answer_of_the_host_becomes_a_sentence(
    server: GitServer, tmp_path: Path, status: int, kind: type[Fault], says: str
) -> None:
    server.status, server.body = status, b"<html>Welcome</html>"
    with pytest.raises(kind, match=says) as refused:
        await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))
    assert refused.value.field == ("$.repo.url" if kind is InvalidMessage else None)


async def test_refused_token_is_named_and_not_shown(server: GitServer, tmp_path: Path) -> None:
    server.token = "right"
    hosts = host_rules(tmp_path, server.toml('token_env = "GIT_TOKEN"'), {"GIT_TOKEN": "wrong-token"})
    with pytest.raises(InvalidMessage, match=r"the credential in git\.toml may not read it") as refused:
        await Gateway(tmp_path, hosts).copy(server.url("a"))
    assert "wrong-token" not in str(refused.value)


@pytest.mark.stress
async def test_host_that_does_not_answer_is_not_asked_again_at_once(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    server.status = 503
    for _ in range(3):
        with pytest.raises(Unavailable):
            await gateway.copy(server.url("a"))
    assert len(server.requests) == 1


@pytest.mark.stress
async def test_empty_repository_and_folder_without_repository_are_refused(server: GitServer, tmp_path: Path) -> None:
    (server.root / "empty").mkdir()
    git(server.root / "empty", "init", "-q")
    (server.root / "plain").mkdir()
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    for name, says in (("empty", "has no commit"), ("plain", "has no repository"), ("none", "has no repository")):
        with pytest.raises(InvalidMessage, match=says):
            await gateway.copy(server.url(name))


@pytest.mark.stress
async def test_transfer_ends_when_the_repository_exceeds_its_limit(server: GitServer, tmp_path: Path) -> None:
    size = 4 << 20
    committed(server.root / "a", {"large": os.urandom(size)})
    server.bytes_per_s = 2 << 20
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), repository_bytes=200_000)
    with pytest.raises(InvalidMessage, match="has more than 200,000 bytes, the limit MUSTER_GIT_MAX_BYTES"):
        await gateway.copy(server.url("a"))
    assert server.sent < size
    assert not list(gateway.root.rglob("*.pack"))


@pytest.mark.stress
async def test_transfer_ends_at_its_deadline(server: GitServer, tmp_path: Path) -> None:
    committed(server.root / "a", {"large": os.urandom(1 << 20)})
    server.bytes_per_s = 50_000
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), deadline_s=0.7)
    with pytest.raises(Unavailable, match=r"took longer than 0\.7 s"):
        await gateway.copy(server.url("a"))
    assert server.sent < 1 << 20


async def test_ended_transfers_leave_nothing_that_counts_for_the_limit(server: GitServer, tmp_path: Path) -> None:
    def gateway(deadline_s: float = 60.0) -> Gateway:
        hosts = host_rules(tmp_path, server.toml())
        return Gateway(tmp_path, hosts, fresh_s=0.0, repository_bytes=1 << 20, deadline_s=deadline_s)

    await gateway().copy(server.url("a"))
    (copy,) = (tmp_path / "repositories").glob("*/repo.git")
    # A gateway that is killed removes nothing itself.
    (copy / "objects" / "pack" / "tmp_pack_1").write_bytes(bytes(2 << 20))
    (copy / "refs" / "heads" / "main.lock").touch()
    committed(server.root / "a", {"a.txt": os.urandom(300_000)})
    server.bytes_per_s = 200_000
    with pytest.raises(Unavailable, match=r"took longer than 0\.8 s"):
        await gateway(deadline_s=0.8).copy(server.url("a"))
    assert not list(copy.rglob("tmp_*"))
    server.bytes_per_s = 0
    await gateway().copy(server.url("a"))
    assert not list(copy.rglob("*.lock"))


async def test_repository_that_became_small_again_is_copied_anew(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), fresh_s=0.0, repository_bytes=300_000)
    await gateway.copy(server.url("a"))
    first = git(server.root / "a", "rev-parse", "HEAD")
    copies = list[Path]()
    for _ in range(2):  # Each of the commits fits, and both together do not.
        git(server.root / "a", "reset", "-q", "--hard", first)
        committed(server.root / "a", {"large": os.urandom(200_000)})
        copies.append(await gateway.copy(server.url("a")))
    assert git(copies[-1], "rev-parse", "HEAD") == git(server.root / "a", "rev-parse", "HEAD")


@pytest.mark.stress
async def test_full_disk_is_not_filled_further(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_space, "FREE_BYTES", 1 << 62)
    with pytest.raises(OSError, match="too little space"):
        await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))


async def test_references_and_sizes_are_read_outside_of_the_event_loop(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A repository with 40,000 branches would stop the loop, and so all workers' requests, for half a second.
    threads = dict[str, set[int]]()
    parsed, are_listed_in, size_of = RemoteRefs.parsed, RemoteRefs.are_listed_in, cache_space.size_of

    def noted[**P, R](name: str, call: Callable[P, R]) -> Callable[P, R]:
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            threads.setdefault(name, set()).add(threading.get_ident())
            return call(*args, **kwargs)

        return run

    monkeypatch.setattr(RemoteRefs, "parsed", staticmethod(noted("parsed", parsed)))
    monkeypatch.setattr(RemoteRefs, "are_listed_in", noted("listed", are_listed_in))
    monkeypatch.setattr(mirror_cache, "size_of", noted("size", size_of))
    await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))
    assert threads.keys() == {"parsed", "listed", "size"}
    assert all(threading.get_ident() not in seen for seen in threads.values())


@pytest.mark.stress
async def test_copy_that_was_not_used_for_longest_is_removed_first(server: GitServer, tmp_path: Path) -> None:
    for name in ("b", "c", "d"):
        repository(server.root / name, {"a.txt": name, "large": os.urandom(100_000)})
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), total_bytes=250_000)
    await gateway.copy(server.url("b"))
    await gateway.copy(server.url("c"))
    for entry in gateway.root.iterdir():
        if git(entry / "repo.git", "show", "main:a.txt") == "b":
            os.utime(entry / "used", (0, 0))
    await gateway.copy(server.url("d"))
    await gateway.copy(server.url("a"))
    kept = {
        git(entry / "repo.git", "show", "main:a.txt")
        for entry in gateway.root.glob("*")
        if (entry / "repo.git").is_dir()
    }
    assert kept == {"c", "d", "mine"}


@pytest.mark.stress
async def test_leftover_of_a_killed_gateway_is_removed(server: GitServer, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()), fresh_s=0.0)
    await gateway.copy(server.url("a"))
    (entry,) = gateway.root.iterdir()
    (entry / "new.0123").mkdir()
    await gateway.copy(server.url("a"))
    assert not list(entry.glob("new.*"))


@pytest.mark.parametrize("found", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"])
async def test_unlisted_host_with_a_private_address_is_refused(tmp_path: Path, found: str) -> None:
    async def resolve(_: str, __: int) -> list[str]:
        return ["93.184.216.34", found]

    with pytest.raises(InvalidMessage, match="which is not public"):
        await Gateway(tmp_path, host_rules(tmp_path, resolve=resolve)).copy("https://git.invalid/a.git")


@pytest.mark.stress
async def test_git_connects_to_the_address_that_was_checked(tmp_path: Path) -> None:
    asked = list[str]()

    async def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) > 1 else ["203.0.113.77"]

    gateway = Gateway(tmp_path, host_rules(tmp_path, resolve=resolve), deadline_s=1.0)
    with pytest.raises((Unavailable, InvalidMessage)) as failed:
        await gateway.copy("https://git.invalid/a.git")
    # The name does not exist. If git asked a name server itself, git would say so.
    assert "resolve" not in str(failed.value)
    assert asked == ["git.invalid"]


async def test_neither_hooks_nor_configuration_of_a_repository_are_copied_or_run(
    server: GitServer, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    files = {
        ".gitattributes": "* filter=evil\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {ran}\n',
        "hooks/post-checkout": f"#!/bin/sh\ntouch {ran}\n",
    }
    committed(server.root / "a", files)
    for name in ("uploadpack.packObjectsHook", "core.fsmonitor"):
        git(server.root / "a", "config", name, f"touch {tmp_path / 'ran by the host'} #")
    copy = await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))
    assert not (copy / "hooks").exists()
    assert "evil" not in (copy / "config").read_text()
    assert not ran.exists()


@pytest.mark.stress
async def test_objects_that_would_write_into_git_directories_are_refused(server: GitServer, tmp_path: Path) -> None:
    repo = server.root / "a"
    blob = git(repo, "rev-parse", "HEAD:a.txt")
    inner = subprocess.run(
        ["git", "mktree"], cwd=repo, input=f"100644 blob {blob}\tconfig\n", capture_output=True, text=True
    )
    outer = f"040000 tree {inner.stdout.strip()}\t.git\n"
    tree = subprocess.run(["git", "mktree"], cwd=repo, input=outer, capture_output=True, text=True).stdout.strip()
    git(repo, "update-ref", "refs/heads/evil", git(repo, "commit-tree", "-m", "evil", tree))
    with pytest.raises(InvalidMessage, match=r"objects that git refuses.*hasDotgit"):
        await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("a"))


@pytest.mark.stress
async def test_repository_with_sha256_ids_is_copied(server: GitServer, tmp_path: Path) -> None:
    repo = server.root / "long"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main", "--object-format=sha256")
    committed(repo, {"a.txt": "long\n"})
    assert subject(await Gateway(tmp_path, host_rules(tmp_path, server.toml())).copy(server.url("long"))) == "long"


@pytest.mark.stress
async def test_missing_submodules_and_large_files_are_said(server: GitServer, tmp_path: Path) -> None:
    repo = committed(server.root / "a", {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    gateway = Gateway(tmp_path, host_rules(tmp_path, server.toml()))
    said = await gateway.copies.missing_parts(await gateway.copy(server.url("a")), Repo(url="x"))
    assert ["LFS" in sentence for sentence in said] == [True]
    commit = git(repo, "rev-parse", "HEAD")
    (repo / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ../x\n')
    git(repo, "update-index", "--add", "--cacheinfo", f"160000,{commit},x")
    git(repo, "checkout", "-q", "-b", "sub")
    committed(repo, {})
    said = await gateway.copies.missing_parts(await gateway.copy(server.url("a"), "sub"), Repo(url="x", ref="sub"))
    assert [sentence.split()[3] for sentence in said] == ["submodules.", "files"]


@pytest.mark.stress
async def test_ssh_uses_only_the_deploy_key_and_the_known_hosts_of_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No machine of the tests has an SSH server. This program has the arguments of ssh, and runs the command here.
    repo, told = repository(tmp_path / "served" / "a"), tmp_path / "told"
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {told}\nfor last; do true; done\nGIT_PROTOCOL= exec sh -c "$last"\n')
    ssh.chmod(0o700)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    (tmp_path / "key").touch(mode=0o600)
    hosts = host_rules(tmp_path, '[hosts."git.invalid"]\nkey_file = "key"\n')
    copy = await Gateway(tmp_path, hosts).copy(f"ssh://git@git.invalid{repo}/.git")
    assert subject(copy) == "mine"
    for option in (
        "-F /dev/null",
        f"-i {tmp_path}/key",
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "IdentityAgent=none",
    ):
        assert option in told.read_text()
    assert f"UserKnownHostsFile={tmp_path}/known_hosts" in told.read_text()
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InvalidMessage, match="chmod 600"):
        await Gateway(tmp_path, hosts).copy(f"ssh://git@git.invalid{repo}/.git", name="again")
