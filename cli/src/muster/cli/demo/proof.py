"""The proof: a reported diff, applied to a fresh clone, makes the tests pass that failed there before."""

import asyncio
from pathlib import Path

import msgspec

from muster.cli.demo.cases import TEST_COMMAND
from muster.cli.demo.subprocesses import git, run

_TAIL = 600


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a diff is worth. `passed` only if the tests failed before it and pass with it."""

    failed_before: bool = False
    applied: bool = False
    passed: bool = False
    command: str = TEST_COMMAND
    output: str = ""
    """The end of what the last command said."""
    seconds: float = 0.0


async def prove(repository: Path, diff: str, clone: Path) -> Proof:
    """Clone, run the tests, apply, run them again. Nothing raises: what fails is in the proof."""
    now = asyncio.get_running_loop().time
    begin = now()
    proof = await _prove(repository, diff, clone)
    return msgspec.structs.replace(proof, output=proof.output.strip()[-_TAIL:], seconds=round(now() - begin, 3))


async def _prove(repository: Path, diff: str, clone: Path) -> Proof:
    if not diff:
        return Proof(output="no diff was reported")
    cloned = await git("clone", "-q", "--", repository.as_uri(), str(clone), cwd=repository)
    if not cloned.good:
        return Proof(output=cloned.output)
    before = await run("sh", "-c", TEST_COMMAND, cwd=clone)
    applied = await git("apply", "--whitespace=nowarn", "-", cwd=clone, feed=diff)
    if not applied.good:
        return Proof(failed_before=not before.good, output=applied.output)
    after = await run("sh", "-c", TEST_COMMAND, cwd=clone)
    return Proof(
        failed_before=not before.good,
        applied=True,
        passed=after.good and not before.good,
        output=after.output if not before.good else "the tests already pass without the diff",
    )
