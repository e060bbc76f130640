"""Files, processes and networks that a worker inside bubblewrap can and cannot reach."""

import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from muster.shim.client import ProcessRecord, ShimClient
from tests.support.shim import ShimProcess, running_shim

pytestmark = pytest.mark.isolation

CONNECT = "import socket,sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 3); print('connected')"
CONNECT_UNIX = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')"


@pytest.fixture(scope="module")
def shim_process() -> Iterator[ShimProcess]:
    with running_shim("bubblewrap") as process:
        yield process


@pytest.fixture
async def shim(shim_process: ShimProcess) -> AsyncIterator[ShimClient]:
    async with ShimClient(shim_process.socket) as client:
        await client.probe(deadline_s=20)
        yield client


@pytest.fixture
def workspace(shim_process: ShimProcess, request: pytest.FixtureRequest) -> Path:
    path = shim_process.workspace / request.node.name.translate({ord("["): "-", ord("]"): None})
    path.mkdir()
    return path


async def run(
    shim: ShimClient, workspace: Path, argv: list[str], readable: list[Path] | None = None, *, network: bool = False
) -> tuple[ProcessRecord, str]:
    record = await shim.run(
        workspace.name,
        argv,
        cwd=workspace,
        writable=[workspace],
        readable=readable or [],
        network=network,
        timeout_s=20,
    )
    return record, (await shim.output(workspace.name))[0].decode()


async def test_it_sees_no_process_of_the_host(shim: ShimClient, workspace: Path) -> None:
    record, output = await run(shim, workspace, ["sh", "-c", "kill -9 1; ls -d /proc/[0-9]*; exit 4"])
    assert record.isolation == "bubblewrap"
    # The worker sees only itself and its keeper, which it cannot kill.
    assert set(output.split()) == {"/proc/1", "/proc/2"}
    assert record.exit_code == 4


async def test_it_writes_nowhere_but_in_what_is_writable(
    shim: ShimClient, shim_process: ShimProcess, workspace: Path
) -> None:
    readable = shim_process.directory / "readable"
    readable.mkdir()
    (readable / "given").write_text("given")
    own = Path("/tmp") / f"own-{secrets.token_hex(8)}"
    hidden = shim_process.directory / "hidden"
    hidden.write_text("secret")
    script = (
        f"touch {workspace}/mine; touch {own}; cat {readable}/given; cat {hidden} || echo; "
        f"for at in / /usr /etc /root {readable} {shim_process.directory} {Path.home()} {sys.prefix}; do "
        "touch $at/x 2>/dev/null && echo wrote $at; done; "
        "[ -w /proc/sys/kernel/core_pattern ] && echo wrote core_pattern; true"
    )
    _, output = await run(shim, workspace, ["sh", "-c", script], [readable])

    assert "given" in output
    assert "secret" not in output
    # Parent directories of mounts are on the sandbox's own /tmp; a home directory may be one of them.
    wrote = {line.removeprefix("wrote ") for line in output.splitlines() if line.startswith("wrote")}
    home = {str(Path.home())} if Path.home().is_relative_to("/tmp") else set[str]()
    assert wrote - home == {str(shim_process.directory)}
    assert not (Path.home() / "x").exists()
    assert (workspace / "mine").exists()
    assert not (shim_process.directory / "x").exists()
    assert not (readable / "x").exists()
    assert not own.exists()


async def test_a_readable_directory_inside_a_writable_one_stays_read_only(shim: ShimClient, workspace: Path) -> None:
    inner = workspace / "inner"
    inner.mkdir()
    _, output = await run(shim, workspace, ["sh", "-c", "touch inner/x || touch y && echo as told"], [inner])
    assert "as told" in output
    assert not (inner / "x").exists()


@pytest.mark.parametrize("network", [False, True])
async def test_it_opens_tcp_connections_only_where_it_may(shim: ShimClient, workspace: Path, network: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        argv = [sys.executable, "-c", CONNECT, str(server.getsockname()[1])]
        record, output = await run(shim, workspace, argv, network=network)
    assert ("connected" in output, record.exit_code) == ((True, 0) if network else (False, 1))


async def test_without_network_it_reaches_a_unix_socket_in_what_is_readable(
    shim: ShimClient, shim_process: ShimProcess, workspace: Path
) -> None:
    doors = shim_process.directory / "doors"
    doors.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(doors / "s"))
        server.listen()
        _, output = await run(shim, workspace, [sys.executable, "-c", CONNECT_UNIX, str(doors / "s")], [doors])
    assert output == "connected\n"


async def test_git_bash_and_a_terminal_work(shim: ShimClient, workspace: Path) -> None:
    script = """set -e
git init -q . ; git config user.email a@b ; git config user.name a ; echo x > x ; git add x ; git commit -qm one
git clone -q . copy ; git -C copy log --oneline | wc -l
python3 -c 'import pty; pty.spawn(["tty"])'
id -un ; cd ~ ; pwd"""
    if not shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin"):
        script = script.replace("python3", sys.executable)
    record, output = await run(shim, workspace, ["bash", "-c", script])
    assert record.exit_code == 0, output
    assert output.replace("\r", "").split("\n")[-5:] == ["1", "/dev/pts/0", "worker", str(workspace), ""]


async def test_the_callers_python_runs_inside_also_through_links(shim: ShimClient, workspace: Path) -> None:
    link = workspace / "python"
    link.symlink_to(sys.executable)
    argv = [str(link), "-c", "import sys, msgspec; print(sys.base_prefix)"]
    record, output = await run(shim, workspace, [sys.executable, *argv[1:]])
    assert (record.exit_code, output) == (0, f"{sys.base_prefix}\n")


async def test_failed_isolation_setup_is_an_exit_with_its_cause(shim: ShimClient, workspace: Path) -> None:
    elsewhere = workspace.parent / f"{workspace.name}-elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (workspace / "link").symlink_to(elsewhere)
    record, output = await run(shim, workspace, ["true"], [workspace / "link" / "inner"])
    assert record.error
    assert record.error.startswith("the worker could not be started: bwrap: ")
    assert output.startswith("bwrap: ")
    assert (record.state, record.pid) == ("exited", None)
