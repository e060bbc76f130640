"""Converts the value of `--repo` to a URL: a folder becomes a `file://` URL, and `user@host:path` an `ssh://` URL."""

import os
import subprocess
from pathlib import Path

from muster.cli.console.output import Exit, fail, say
from muster.common.git_urls import ssh_url

MAKE_REPOSITORY = "git init && git add -A && git commit -m 'First commit'"
"""The command that makes a repository of a folder, in every error about a folder without one."""
_ENVIRONMENT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Variables that git sets for its hooks. With them, git would look at another repository than the given folder."""


def repository_url(text: str) -> str:
    """Return the URL of a repository that a user gave as a URL, as `user@host:path` or as a folder.

    A folder inside a work tree stands for the whole repository. Tells the user how many uncommitted changes the clone
    will not contain. Ends the command if the folder is no git repository or has no commit.
    """
    if not text or "://" in text:
        return text
    return ssh_url(text) or _folder_url(text)


def _folder_url(text: str) -> str:
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        fail(
            f"--repo: the folder {folder} does not exist. Give a folder, a URL such as https://HOST/PATH, or "
            "user@HOST:PATH",
            Exit.USAGE,
        )
    if _git(folder, "rev-parse", "--is-bare-repository") == "true":
        return Path(_required(folder, "rev-parse", "--absolute-git-dir")).as_uri()
    top = Path(_required(folder, "rev-parse", "--show-toplevel"))
    if _git(top, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        fail(f"--repo: {top} has no commit to clone: git add -A && git commit -m 'First commit'", Exit.USAGE)
    _say_uncommitted(top)
    return top.as_uri()


def _say_uncommitted(top: Path) -> None:
    changes = len((_git(top, "status", "--porcelain") or "").splitlines())
    if changes:
        noun = "1 uncommitted change is" if changes == 1 else f"{changes} uncommitted changes are"
        say(f"{noun} not in the clone.")


def _required(folder: Path, *arguments: str) -> str:
    """Return the output of a git command; end the command with git's own reason if git fails."""
    said = _run(folder, *arguments)
    if said.returncode:
        reason = said.stderr.strip()
        if "not a git repository" in reason:
            fail(f"--repo: {folder} is not a git repository. Make one there: {MAKE_REPOSITORY}", Exit.USAGE)
        fail(f"--repo: git cannot read {folder}: {reason}", Exit.USAGE)
    return said.stdout.strip()


def _git(folder: Path, *arguments: str) -> str | None:
    said = _run(folder, *arguments)
    return None if said.returncode else said.stdout.rstrip("\n")


def _run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if name not in _ENVIRONMENT}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=env | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        fail("--repo: the program git is not installed. Install git, or give a file:// URL", Exit.USAGE)
