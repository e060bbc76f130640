"""The double as a program of its own, and the synchronous SDK."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import daytona
import httpcore
import msgspec
import pytest

from tests.support.daytona import runs
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from daytona import Daytona

    from muster.daytona_double import DaytonaDouble

pytestmark = pytest.mark.stress


@contextmanager
def program(root: Path, *options: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Yield a running double with the key `secret`, and the URL of its API."""
    argv = [sys.executable, "-m", "muster.daytona_double", "--root", str(root), "--api-key", "secret", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip().removeprefix("DAYTONA_API_URL=")
        finally:
            process.kill()


def client_of(url: str, key: str = "secret") -> Daytona:
    return daytona.Daytona(daytona.DaytonaConfig(api_key=key, api_url=url, target="us"))


def asked(method: str, url: str, body: object = None) -> object:
    """Send a request to the double's own routes, and return the decoded answer."""
    headers = [(b"Content-Type", b"application/json")]
    answer = httpcore.request(method, url, content=msgspec.json.encode(body), headers=headers)
    assert answer.status < 300, answer.content
    return msgspec.json.decode(answer.content) if answer.content else None


def test_synchronous_sdk_runs_commands_and_moves_files(double: DaytonaDouble) -> None:
    client = client_of(double.url, double.key)
    sandbox = client.create(daytona.CreateSandboxFromSnapshotParams(name="one"))
    sandbox.fs.upload_file(b"content", "file.txt")
    ran = sandbox.process.exec("cat file.txt", timeout=20)
    sandbox.delete(wait=True)

    assert ran.result == "content"
    assert [one.name for one in client.list()] == []


def test_synchronous_sdk_does_not_repeat_a_create_whose_answer_is_lost(double: DaytonaDouble) -> None:
    double.faults.set("lost-create", times=1)
    client = client_of(double.url, double.key)

    with pytest.raises(daytona.DaytonaConnectionError):
        client.create(daytona.CreateSandboxFromSnapshotParams(name="one"))
    assert client.get("one").name == "one"
    assert double.requests["POST /sandbox"] == 1


def test_program_serves_with_the_faults_of_its_command_line(tmp_path: Path) -> None:
    with program(tmp_path / "root", "--fault", "rate-limit=times:1,route:GET /sandbox/*") as (_, url):
        client = client_of(url)
        with pytest.raises(daytona.DaytonaRateLimitError):
            client.get("one")
        with pytest.raises(daytona.DaytonaNotFoundError):
            client.get("one")


def test_other_processes_set_faults_and_read_counters_by_the_control_routes(tmp_path: Path) -> None:
    with program(tmp_path / "root", "--control") as (_, url):
        control = url.removesuffix("/api") + "/_double"
        asked("POST", f"{control}/faults", {"name": "unavailable", "times": 5})
        client = client_of(url)
        with pytest.raises(daytona.DaytonaServiceUnavailableError):
            client.get("one")
        asked("DELETE", f"{control}/faults?name=unavailable")
        client.create(daytona.CreateSandboxFromSnapshotParams(name="one"))

        assert asked("GET", f"{control}/faults") == {"in_force": [], "struck": {"unavailable": 1}}
        assert asked("GET", f"{control}/requests") == {"GET /sandbox/{id_or_name}": 1, "POST /sandbox": 1}
        assert [
            one["name"] for one in msgspec.convert(asked("GET", f"{control}/sandboxes"), list[dict[str, object]])
        ] == ["one"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_process_of_a_sandbox_is_left_when_the_double_ends(tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "root"
    with program(root) as (process, url):
        sandbox = client_of(url).create(daytona.CreateSandboxFromSnapshotParams(name="one"))
        sandbox.process.exec("setsid sleep 1000 > /dev/null 2>&1 & echo $! > pid", timeout=20)
        pid = int(sandbox.fs.download_file("pid"))
        process.send_signal(number)
        process.wait()
    if number == signal.SIGKILL:  # The next double on the same directory ends what a killed one left behind.
        with program(root):
            pass

    await eventually(lambda: runs(pid), lambda still: not still)
    assert number == signal.SIGKILL or not root.exists()
