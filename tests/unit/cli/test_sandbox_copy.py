"""`muster sandbox cp` copies between one file of a sandbox and one local file."""

from pathlib import Path

import click
import pytest

from muster.cli.commands.sandbox_content import CopyPlan, copy_plan


@pytest.mark.parametrize(
    ("source", "destination", "plan"),
    [
        ("a.py", "sbx_1:src/b.py", CopyPlan(upload=True, sandbox="sbx_1", path="src/b.py", local="a.py")),
        ("x/a.py", "sbx_1:src/", CopyPlan(upload=True, sandbox="sbx_1", path="src/a.py", local="x/a.py")),
        ("x/a.py", "sbx_1:", CopyPlan(upload=True, sandbox="sbx_1", path="a.py", local="x/a.py")),
        ("-", "sbx_1:a.py", CopyPlan(upload=True, sandbox="sbx_1", path="a.py", local="-")),
        ("sbx_1:src/b.py", "a.py", CopyPlan(upload=False, sandbox="sbx_1", path="src/b.py", local="a.py")),
        ("sbx_1:src/b.py", "-", CopyPlan(upload=False, sandbox="sbx_1", path="src/b.py", local="-")),
        ("sbx_1:src/b.py", "/", CopyPlan(upload=False, sandbox="sbx_1", path="src/b.py", local="/b.py")),
        ("./a:b", "sbx_1:c", CopyPlan(upload=True, sandbox="sbx_1", path="c", local="./a:b")),
    ],
)
def test_place_with_a_colon_is_in_a_sandbox(source: str, destination: str, plan: CopyPlan) -> None:
    assert copy_plan(source, destination) == plan


@pytest.mark.parametrize(("source", "destination"), [("a", "b"), ("sbx_1:a", "sbx_2:b"), ("-", "sbx_1:src/")])
def test_copy_needs_exactly_one_file_of_a_sandbox(source: str, destination: str) -> None:
    with pytest.raises(click.UsageError):
        copy_plan(source, destination)


def test_file_is_copied_into_an_existing_folder(tmp_path: Path) -> None:
    assert copy_plan("sbx_1:src/b.py", str(tmp_path)).local == str(tmp_path / "b.py")
