"""The workspace is cloned once, and `git apply` accepts its diff."""

import os
import subprocess
from pathlib import Path

import pytest

from muster.agent.workspace import GitFailed, GitRefused, NoSuchRef, Workspace
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@t.invalid"]
    done = subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "kept.py").write_text("one\n")
    (folder / "gone.py").write_text("two\n")
    (folder / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    git(folder, "tag", "v1")
    (folder / "kept.py").write_text("later\n")
    git(folder, "commit", "-qam", "second")
    return folder


def workspace(folder: Path, repo_url: str | None, ref: str | None = None) -> Workspace:
    return Workspace(
        Handoff(
            gateway_url="http://gateway",
            token="t",
            sandbox_id="sbx_1",
            task_id="tsk_1",
            agent_id="agt_1",
            epoch=1,
            conversation_id="cnv_1",
            package="echo",
            model="m",
            objective="o",
            repo=Repo(url=repo_url, ref=ref) if repo_url else None,
            workspace=str(folder / "tree"),
            state_dir=str(folder / "state"),
            timeout_s=1,
        )
    )


async def test_diff_contains_a_change_in_the_same_second_as_the_clone_that_keeps_the_size(
    origin: Path, tmp_path: Path
) -> None:
    space, tree = workspace(tmp_path, f"file://{origin}", "v1"), tmp_path / "tree"
    await space.prepare()
    git(tree, "config", "core.trustctime", "false")  # A test cannot set the change time of a file.
    git(tree, "config", "core.checkStat", "minimal")
    for file, text in ((tree / "kept.py", "one\n"), (tree / ".git" / "index", None), (tree / "kept.py", "two\n")):
        if text is not None:
            file.write_text(text)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        if text == "one\n":
            git(tree, "update-index", "--refresh")
    assert "+two" in await space.diff()


async def test_diff_contains_all_work_and_applies_to_a_fresh_clone(origin: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, f"file://{origin}", "v1")
    await space.prepare()
    tree = tmp_path / "tree"
    assert (tree / "kept.py").read_text() == "one\n"
    (tree / "kept.py").write_text("committed\n")
    git(tree, "commit", "-qam", "by the agent")
    (tree / "gone.py").unlink()
    (tree / "new.bin").write_bytes(bytes(range(256)))
    (tree / "latin.txt").write_bytes("caf\xe9s\n".encode("latin-1"))
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "new.pyc").write_bytes(b"cache")
    staged = git(tree, "status", "--porcelain")
    diff = await space.diff()
    assert git(tree, "status", "--porcelain") == staged
    assert "pycache" not in diff
    git(tmp_path, "clone", "-q", str(origin), "fresh")
    fresh = tmp_path / "fresh"
    git(fresh, "checkout", "-q", "v1")
    (tmp_path / "work.diff").write_text(diff)
    git(fresh, "apply", "--index", str(tmp_path / "work.diff"))
    assert git(fresh, "diff", "--cached", "--stat", "v1").count("|") == 4
    for name in ("kept.py", "new.bin", "latin.txt"):
        assert (fresh / name).read_bytes() == (tree / name).read_bytes()


async def test_a_relaunch_keeps_the_work_and_half_a_clone_is_cloned_again(origin: Path, tmp_path: Path) -> None:
    half = tmp_path / "tree" / ".git"
    half.mkdir(parents=True)
    (half / "HEAD").write_text("ref")
    await workspace(tmp_path, f"file://{origin}").prepare()
    (tmp_path / "tree" / "kept.py").write_text("work\n")
    again = workspace(tmp_path, f"file://{origin}")
    await again.prepare()
    assert "+work" in await again.diff()


async def test_missing_ref_differs_from_an_unreachable_repository(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRef, match="no branch, tag or commit nope"):
        await workspace(tmp_path, f"file://{origin}", "nope").prepare()
    git(origin, "branch", "side")
    await workspace(tmp_path, f"file://{origin}", "side").prepare()
    with pytest.raises(GitRefused) as gone:
        await workspace(tmp_path / "other", f"file://{origin}-gone", "nope").prepare()
    assert not isinstance(gone.value, NoSuchRef)


async def test_without_a_repository_there_is_still_a_diff(tmp_path: Path) -> None:
    (tmp_path / "tree" / ".git").mkdir(parents=True)
    (tmp_path / "tree" / ".git" / "config.lock").touch()  # an earlier launch was killed in `git init`
    space = workspace(tmp_path, None)
    await space.prepare()
    assert await space.diff() == ""
    (tmp_path / "tree" / "a.txt").write_text("hello\n")
    assert "+hello" in await space.diff()


async def test_missing_repository_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match=r"does not exist|not appear to be"):
        await workspace(tmp_path, f"file://{tmp_path}/nowhere").prepare()
    assert not (tmp_path / "state" / "base").exists()


async def test_an_agent_that_calls_a_binary_text_still_gets_a_diff_without_nul(origin: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, f"file://{origin}")
    await space.prepare()
    tree = tmp_path / "tree"
    (tree / "blob").write_bytes(b"a\0b\n")
    (tree / ".gitattributes").write_text("blob diff\n")
    (tree / "kept.py").write_text("work\n")
    diff = await space.diff()
    assert "\0" not in diff
    git(tmp_path, "clone", "-q", str(origin), "fresh")
    (tmp_path / "work.diff").write_text(diff)
    git(tmp_path / "fresh", "apply", str(tmp_path / "work.diff"))
    for name in ("blob", "kept.py", ".gitattributes"):
        assert (tmp_path / "fresh" / name).read_bytes() == (tree / name).read_bytes()
