"""The repositories the demo's agents work on: package data, made real git repositories at run time."""

import asyncio
import shutil
from pathlib import Path

from muster.cli.demo.cases import REPOS, Case
from muster.cli.demo.subprocesses import git


class NoRepositoryError(Exception):
    """git could not make one."""


async def make_repository(case: Case, root: Path) -> Path:
    """A fresh repository of one commit below `root`. Raises `NoRepositoryError`."""
    place = root / case.name
    leave = shutil.ignore_patterns("__pycache__", "*.pyc")
    await asyncio.to_thread(shutil.copytree, REPOS / case.name, place, ignore=leave)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Start")):
        ended = await git(*arguments, cwd=place)
        if not ended.good:
            raise NoRepositoryError(f"git {arguments[0]} in {place} ended with {ended.code}: {ended.output.strip()}")
    return place
