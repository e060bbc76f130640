"""`muster doctor` makes and deletes a sandbox at the double of Daytona, with the real SDK, and names what fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from muster.cli.app import muster

if TYPE_CHECKING:
    from muster.daytona_double import DaytonaDouble

Doctor = Callable[..., dict[str, str]]
pytestmark = [pytest.mark.stress, pytest.mark.timeout(200)]


@pytest.fixture
def double(tmp_path: Path) -> Iterator[DaytonaDouble]:
    from muster.daytona_double import serving

    with serving(tmp_path / "double") as double:
        yield double


@pytest.fixture
def doctor(tmp_path: Path, double: DaytonaDouble, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command, and returns its line about Daytona."""
    monkeypatch.setenv("MUSTER_DAYTONA_API_KEY", double.key)
    monkeypatch.setenv("MUSTER_DAYTONA_API_URL", double.url)

    def told(**variables: str) -> dict[str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        result = CliRunner().invoke(muster, ["doctor", "--data", str(tmp_path / "data"), "-o", "json"])
        assert double.key not in result.output
        return next(row for row in json.loads(result.stdout) if row["check"] == "daytona")

    return told


def test_right_key_makes_uses_and_deletes_a_sandbox(doctor: Doctor, double: DaytonaDouble) -> None:
    line = doctor()
    assert (line["verdict"], line["remedy"]) == ("ok", "")
    assert "was made, used and deleted" in line["found"]
    assert double.sandboxes == []


def test_wrong_key_is_named_with_the_variable_to_set(doctor: Doctor, double: DaytonaDouble) -> None:
    line = doctor(MUSTER_DAYTONA_API_KEY="wrong-key")
    assert (line["verdict"], line["found"]) == ("warn", "create failed")
    assert "refused the gateway's key" in line["remedy"]
    assert "set MUSTER_DAYTONA_API_KEY to a key that may create" in line["remedy"]
    assert "wrong-key" not in line["remedy"]
    assert double.sandboxes == []


def test_unreachable_url_is_named(doctor: Doctor) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # The port is taken, and nothing listens on it.
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        line = doctor(MUSTER_DAYTONA_API_URL=url)
    assert (line["verdict"], line["found"]) == ("warn", "create failed")
    assert "Daytona did not answer" in line["remedy"]
    assert "MUSTER_DAYTONA_API_URL" in line["remedy"]


def test_used_up_quota_is_named_and_leaves_no_sandbox(doctor: Doctor, double: DaytonaDouble) -> None:
    double.faults.set("quota")
    line = doctor()
    assert (line["verdict"], line["found"]) == ("warn", "create failed")
    assert "quota is used up" in line["remedy"]
    assert "CPU limit exceeded" in line["remedy"]
    assert double.sandboxes == []


def test_sandbox_without_python_is_deleted_and_the_setting_is_named(doctor: Doctor, double: DaytonaDouble) -> None:
    line = doctor(MUSTER_DAYTONA_PYTHON="/usr/bin/no-such-python")
    assert line["verdict"] == "warn"
    assert "needs Python 3.12 (MUSTER_DAYTONA_PYTHON)" in line["remedy"]
    assert double.sandboxes == []


def test_missing_key_of_a_chosen_provider_blocks_a_start(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_DAYTONA_API_KEY")
    line = doctor(MUSTER_PROVIDERS="daytona")
    assert (line["verdict"], line["found"]) == ("blocks", "settings failed")
    assert "set MUSTER_DAYTONA_API_KEY" in line["remedy"]
