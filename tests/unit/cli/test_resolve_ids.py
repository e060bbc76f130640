"""Users, keys and packages can be given by name, as agents can."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from muster.cli.client.resolve_ids import NamedIdPage, resolve_named

ALICE, BOB, OTHER_BOB, LATE, NAMELESS = (f"usr_{one * 26}" for one in "abcde")
PAGES: dict[str | None, NamedIdPage] = {
    None: ([("alice", ALICE), ("bob", BOB), ("bob", OTHER_BOB)], "2"),
    "2": ([("late", LATE), ("", NAMELESS)], None),
}


def find(given: str) -> str:
    async def page(cursor: str | None) -> NamedIdPage:
        return PAGES[cursor]

    return asyncio.run(resolve_named(given, "usr", "user", page))


@pytest.mark.parametrize(("given", "meant"), [("alice", ALICE), ("late", LATE), (BOB, BOB), (LATE[:-1], LATE)])
def test_name_or_beginning_of_an_id_is_resolved(given: str, meant: str):
    assert find(given) == meant


@pytest.mark.parametrize(
    ("given", "code", "said"), [("bob", 2, OTHER_BOB), ("carol", 3, "called carol"), ("", 2, "empty")]
)
def test_unknown_or_ambiguous_name_is_refused(capsys: pytest.CaptureFixture[str], given: str, code: int, said: str):
    with pytest.raises(SystemExit) as refused:
        find(given)

    assert refused.value.code == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("name", "warned"), [("echo", True), ("mine", False)])
def test_new_package_with_the_name_of_a_built_in_one_is_reported(tmp_path: Path, name: str, warned: bool):
    """The test runs in another process, because other tests add modules called `echo` to the import path."""
    told = [sys.executable, "-m", "muster.cli", "agent", "new", name, "--into", str(tmp_path)]

    made = subprocess.run(told, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)

    assert made.returncode == 0, made.stderr
    assert (f"Muster has a built-in package called {name}" in made.stderr) is warned
