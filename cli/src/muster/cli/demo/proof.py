"""Tests a task's diff in a fresh clone of the repository: the tests must fail without the diff and pass with it."""

import asyncio
from pathlib import Path

import msgspec

from muster.cli.demo.cases import TEST_COMMAND
from muster.cli.demo.subprocesses import git, run

_OUTPUT_CHARS = 600
"""Characters of a command's output that a proof keeps."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The result of testing a diff. `passed` means that the tests failed without the diff and pass with it."""

    failed_before: bool = False
    applied: bool = False
    passed: bool = False
    command: str = TEST_COMMAND
    output: str = ""
    """End of the last command's output."""
    seconds: float = 0.0


async def prove(repository: Path, diff: str, clone: Path) -> Proof:
    """Clone the repository, run the tests, apply the diff and run the tests again.

    Raises no exception for a failed command: the returned `Proof` contains the failure.
    """
    now = asyncio.get_running_loop().time
    begin = now()
    proof = await _prove(repository, diff, clone)
    return msgspec.structs.replace(proof, output=proof.output.strip()[-_OUTPUT_CHARS:], seconds=round(now() - begin, 3))


async def _prove(repository: Path, diff: str, clone: Path) -> Proof:
    if not diff:
        return Proof(output="no diff was reported")
    cloned = await git("clone", "-q", "--", repository.as_uri(), str(clone), cwd=repository)
    if not cloned.succeeded:
        return Proof(output=cloned.output)
    before = await run("sh", "-c", TEST_COMMAND, cwd=clone)
    applied = await git("apply", "--whitespace=nowarn", "-", cwd=clone, feed=diff)
    if not applied.succeeded:
        return Proof(failed_before=not before.succeeded, output=applied.output)
    after = await run("sh", "-c", TEST_COMMAND, cwd=clone)
    return Proof(
        failed_before=not before.succeeded,
        applied=True,
        passed=after.succeeded and not before.succeeded,
        output=after.output if not before.succeeded else "the tests already pass without the diff",
    )
