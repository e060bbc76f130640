"""`muster up | down | status`: the stack on this machine."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.client.target import configured, configured_data_directory, data_directory, read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation, warn_of
from muster.cli.commands.stack.process_memory import memory_mb
from muster.cli.commands.stack.saved_folders import StackFolders
from muster.cli.commands.watching import keep_showing, watch_option
from muster.cli.console.agent_log_lines import readable_lines
from muster.cli.console.output import Exit, Form, Row, Shape, emit, emit_rows, fail, output_option, say
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import InUseError, holder
from muster.shim.protocol import IsolationChoice

DOWN_DEADLINE_S = 45.0
MUSTER = ("-m", "muster.cli")
"""How Python runs this command."""
PROCESSES = Shape(columns=("name", "state", "pid", "memory_mb", "restarts"))
_DATA = "The data directory of the stack. [MUSTER_DATA_DIR]"
DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)


def _places[F: Callable[..., Any]](name: str, text: str) -> Callable[[F], F]:
    return click.option(name, metavar="DIR", type=DIRECTORY, multiple=True, help=f"{text} May be repeated.")


@click.command()
@click.option("--ephemeral", is_flag=True, help="Free ports, and unless --data is given a temporary data directory.")
@click.option("--data", metavar="DIR", type=PATH, help="The data directory. [MUSTER_DATA_DIR]")
@click.option("--ready-file", metavar="FILE", type=PATH, help="Write to it too where everything is, once it is ready.")
@click.option("--detach", is_flag=True, help="Return when it is ready, and leave it running.")
@_places("--scripts", "Where scripted models find their scripts.")
@_places("--packages", "Agent packages are found in it too, as they appear.")
@_places("--repo-root", "Tasks may name file:// repositories below it.")
@isolation_option
@output_option
@click.option("--remove-data", is_flag=True, hidden=True, help="The data directory goes when the stack has stopped.")
@click.option("--ready-fd", type=int, hidden=True, help="Write ready.json to this descriptor and close it.")
def up(
    *,
    ephemeral: bool,
    data: Path | None,
    ready_file: Path | None,
    detach: bool,
    scripts: tuple[Path, ...],
    packages: tuple[Path, ...],
    repo_root: tuple[Path, ...],
    isolation: IsolationChoice,
    form: Form,
    remove_data: bool,
    ready_fd: int | None,
) -> None:
    """Start NATS, PostgreSQL, the shim and the four services; Ctrl-C stops them.

    Where --scripts, --packages or --repo-root is not given, those count that this data directory had before.
    """
    data = data or configured_data_directory()
    place = data if ephemeral else data_directory(data)
    if place is not None:
        _make_writable(place)
    # A directory of its own has seen no other stack.
    told = StackFolders(scripts=scripts, packages=packages, repo_root=repo_root)
    places = told if place is None else told.completed_from(place)
    if detach:
        _announce(_detach(ephemeral=ephemeral, data=data), form, stop="`muster down --data {}`")
        return
    refuse_without_isolation(isolation)
    from muster.cli.commands.stack.run_stack import run_stack
    from muster.embedded.config import StackConfig

    config = StackConfig(
        data_dir=place,
        ephemeral=ephemeral,
        remove_data=remove_data,
        ready_file=ready_file,
        scripts_dirs=places.scripts,
        repo_roots=places.repo_root,
        isolation=isolation,
        **_servers(),
        user_env={**os.environ, **_package_places(places.packages, configured("packages_dirs"))},
    )

    def announce(ready: Ready) -> None:
        places.keep(Path(ready.data_dir))
        _announce(ready, form, stop="Ctrl-C")
        if ready_fd is None:
            return
        with contextlib.suppress(BrokenPipeError), os.fdopen(ready_fd, "wb") as pipe:
            pipe.write(msgspec.json.encode(ready))

    sys.exit(asyncio.run(run_stack(config, announce)))


def _servers() -> dict[str, Any]:
    """Read where servers run already, for the fields of `StackConfig`; exits with 2 where a setting is wrong."""
    from muster.common.running import read_settings
    from muster.common.settings import ServersSettings

    servers = read_settings(ServersSettings)
    return {
        "nats_url": servers.nats_url.get_secret_value(),
        "nats_credentials": servers.nats_credentials,
        "nats_tls": servers.nats_tls,
        "database_url": servers.database_url.get_secret_value(),
    }


def _package_places(given: tuple[Path, ...], configured: str) -> dict[str, str]:
    """Those of the option, then those of the environment or the configuration file."""
    if not given:
        return {}
    places = [*(str(place.resolve()) for place in given), os.environ.get("MUSTER_PACKAGES_DIRS", configured)]
    return {"MUSTER_PACKAGES_DIRS": os.pathsep.join(filter(None, places))}


def _announce(ready: Ready, form: Form, *, stop: str) -> None:
    """Where it is and how it is stopped. Its keys and passwords stay in its ready.json."""
    if form == "name":
        sys.stdout.write(f"{ready.data_dir}\n")
    elif form != "table":
        emit({name: getattr(ready, name) for name in ("api_url", "gateway_url", "pids", "pid", "data_dir")}, form)
    sys.stdout.flush()
    place = Path(ready.data_dir)
    say(
        f"Muster is up: API {ready.api_url}, gateway {ready.gateway_url}, data {place}, "
        f"key in {place / 'ready.json'}. {stop.format(place)} stops it."
    )
    warn_of(ready.isolation)


@click.command()
@click.option("--data", metavar="DIR", type=PATH, help=_DATA)
@click.option("--ready-file", metavar="FILE", type=PATH, help="Its ready file, instead of its data directory.")
def down(data: Path | None, ready_file: Path | None) -> None:
    """Stop a stack, and return when nothing of it is left."""
    place = _place(data, ready_file)
    pid = holder(place)
    if pid is None:
        say(f"No stack is running in {place}.")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        fail(f"`muster up` (pid {pid}) belongs to another user, who can stop it", Exit.AUTH)
    from muster.embedded.processes import ended

    async def gone() -> None:
        async with asyncio.timeout(DOWN_DEADLINE_S):
            await ended(pid)

    try:
        asyncio.run(gone())
    except TimeoutError:
        fail(f"`muster up` (pid {pid}) was still stopping after {DOWN_DEADLINE_S:g} s", Exit.TIMEOUT)
    say("Stopped.")


@click.command()
@click.option("--data", metavar="DIR", type=PATH, help=_DATA)
@click.option("--ready-file", metavar="FILE", type=PATH, help="Its ready file, instead of its data directory.")
@watch_option
@output_option
def status(data: Path | None, ready_file: Path | None, *, watch: bool, form: Form) -> None:
    """Show each process: state, pid, memory, restarts. Exit code 1 if one is missing, 7 if there is no stack."""
    place = _place(data, ready_file)
    if watch:
        _keep_showing(place, form)
        return
    ready, rows = _processes(place)
    total_mb = round(sum(row["memory_mb"] or 0 for row in rows), 1)
    if form in ("json", "yaml"):
        emit(
            {
                "data_dir": ready.data_dir,
                "version": ready.version,
                "api_url": ready.api_url,
                "gateway_url": ready.gateway_url,
                "isolation": ready.isolation,
                "memory_mb": total_mb,
                "processes": rows,
            },
            form,
        )
    else:
        emit_rows(rows, form, PROCESSES)
        say(
            f"API {ready.api_url}  gateway {ready.gateway_url}  isolation {ready.isolation or 'unknown'}  "
            f"memory {total_mb} MB  data {ready.data_dir}"
        )
        warn_of(ready.isolation)
    sys.exit(Exit.OK if all(row["state"] == "running" for row in rows) else Exit.FAILURE)


def _processes(place: Path) -> tuple[Ready, list[Row]]:
    ready = read_ready_file(place / "ready.json")
    if ready is None or holder(place) is None:
        told = "`muster up` starts one; --data or MUSTER_DATA_DIR names the directory of another"
        fail(f"no stack is running in {place}: {told}", Exit.UNREACHABLE)
    return ready, [_row(name, its_pid, ready) for name, its_pid in {"up": ready.pid, **ready.pids}.items()]


def _keep_showing(place: Path, form: Form) -> None:
    async def read() -> list[Row]:
        return _processes(place)[1]

    try:
        asyncio.run(keep_showing(read, form, PROCESSES))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _place(data: Path | None, ready_file: Path | None) -> Path:
    if ready_file is None:
        return data_directory(data)
    ready = read_ready_file(ready_file)
    if ready is None:
        fail(f"{ready_file} is not there: no stack, or it has stopped", Exit.UNREACHABLE)
    return Path(ready.data_dir)


def _row(name: str, pid: int, ready: Ready) -> Row:
    memory = memory_mb(pid, with_children=name == "postgres")
    return {
        "name": name,
        "state": "dead" if memory is None else "running",
        "pid": pid,
        "memory_mb": memory,
        "restarts": ready.restarts.get(name, 0),
    }


def _make_writable(place: Path) -> None:
    """Make the data directory, and find out that something can be kept there."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail(f"the data directory {place} cannot be made: {error.strerror}; choose another with --data")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        fail(f"the data directory {place} cannot be written: {error.strerror}; choose another with --data")


def _detach(*, ephemeral: bool, data: Path | None) -> Ready:
    """Run the same command without `--detach` as a daemon, and wait for it to say that it is ready."""
    place = data or (Path(tempfile.mkdtemp(prefix="muster-")) if ephemeral else data_directory())
    if (pid := holder(place)) is not None:
        fail(str(InUseError(place, pid)), Exit.CONFLICT)
    arguments = [word for word in sys.argv[1:] if word != "--detach"]
    if data is None:
        arguments += ["--data", str(place), *(["--remove-data"] if ephemeral else [])]
    reading, writing = os.pipe()
    with (place / "up.log").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *MUSTER, *arguments, "--ready-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        if not said:
            output.seek(0)
            why = last_words(output.read().decode(errors="replace"))
            code = process.wait(DOWN_DEADLINE_S)
            kept = f"\n{place / 'up.log'} has all of it." if (place / "up.log").exists() else ""
            fail(f"the stack did not come up: {why}{kept}", Exit(code) if code in set(Exit) and code else Exit.FAILURE)
    return msgspec.json.decode(said, type=Ready)


def last_words(log: str) -> str:
    """Why a stack did not come up, from its log: what it said to a person, and a part's last words in words."""
    _, marked, said = f"\n{log}".partition("\nmuster: ")
    lines = [line for line in (said if marked else log).splitlines() if line.strip()]
    told = lines if marked else [line for line in lines if not line.startswith("{")]
    return "\n".join(words for line in told for words in map(click.unstyle, readable_lines(line))) or "it said nothing"
