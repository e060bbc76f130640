"""The values of `--repo`: URLs, addresses of SSH, and folders."""

import subprocess
from pathlib import Path

import pytest

from muster.cli.commands.task.repository import repository_url


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=ada", "-c", "user.email=ada@git.invalid")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit and a subfolder `src`. Git searches no folder above `tmp_path`."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "a repo"
    (folder / "src").mkdir(parents=True)
    (folder / "src/x.py").write_text("x = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://git.invalid/a.git", "https://git.invalid/a.git"),
        ("file:///x", "file:///x"),
        ("git@github.com:a/b.git", "ssh://git@github.com/a/b.git"),
        ("ada@git.invalid:b.git", "ssh://ada@git.invalid/~/b.git"),
        ("", ""),
    ],
)
def test_url_is_unchanged_and_short_ssh_address_becomes_a_url(given: str, url: str):
    assert repository_url(given) == url


def test_folder_becomes_the_url_of_its_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(repository / "src")

    urls = [repository_url(given) for given in (".", "..", "../../a repo", str(repository), "~/a repo", "~/a repo/src")]

    assert set(urls) == {repository.as_uri()}
    assert capsys.readouterr().err == ""


def test_repository_of_a_git_hook_is_not_taken_for_the_folder(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    assert repository_url(str(repository)) == repository.as_uri()


def test_bare_repository_is_taken(repository: Path):
    git(repository, "clone", "-q", "--bare", ".", "../bare.git")

    assert repository_url(str(repository.parent / "bare.git")) == (repository.parent / "bare.git").as_uri()


def test_user_is_told_how_many_changes_the_clone_will_not_contain(repository: Path, capsys: pytest.CaptureFixture[str]):
    (repository / "src/x.py").write_text("x = 2\n")
    repository_url(str(repository))
    (repository / "new file").touch()
    repository_url(str(repository))

    assert capsys.readouterr().err == (
        "1 uncommitted change is not in the clone.\n2 uncommitted changes are not in the clone.\n"
    )


def test_folder_that_cannot_be_cloned_is_refused_with_the_cure(repository: Path, capsys: pytest.CaptureFixture[str]):
    plain, empty = repository.parent / "plain", repository.parent / "empty"
    plain.mkdir()
    empty.mkdir()
    git(empty, "init", "-q")
    for folder, cure in (
        (plain, "is not a git repository. Make one there: git init && git add -A && git commit"),
        (empty, "has no commit to clone: git add -A && git commit"),
        (repository / "none", "does not exist. Give a folder, a URL such as"),
    ):
        with pytest.raises(SystemExit) as refusal:
            repository_url(str(folder))
        assert refusal.value.code == 2
        assert cure in capsys.readouterr().err
