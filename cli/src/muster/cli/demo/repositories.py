"""Creates the git repositories for the demo's tasks from the files in `repos/`."""

import asyncio
import shutil
from pathlib import Path

from muster.cli.demo.cases import REPOS, Case
from muster.cli.demo.subprocesses import git


class NoRepositoryError(Exception):
    """Raised when git fails to create a repository of the demo."""


async def make_repository(case: Case, root: Path) -> Path:
    """Create the git repository of `case` in a folder below `root`, with one commit. Raises `NoRepositoryError`."""
    path = root / case.name
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    await asyncio.to_thread(shutil.copytree, REPOS / case.name, path, ignore=ignored)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Start")):
        result = await git(*arguments, cwd=path)
        if not result.succeeded:
            raise NoRepositoryError(
                f"git {arguments[0]} in {path} failed with exit code {result.code}: {result.output.strip()}"
            )
    return path
