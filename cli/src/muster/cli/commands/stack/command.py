"""Implements `muster up | down | status`, which start, stop and show the stack on this machine."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from muster.cli.client.target import configured, configured_data_directory, data_directory, read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.commands.stack.detached import start_detached
from muster.cli.commands.stack.isolation_option import isolation_option, refuse_without_isolation, warn_if_not_isolated
from muster.cli.commands.stack.process_memory import memory_mb
from muster.cli.commands.stack.saved_folders import StackFolders
from muster.cli.commands.watching import keep_showing, watch_option
from muster.cli.console.output import Exit, OutputFormat, Row, TableLayout, emit, emit_rows, fail, output_option, say
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import holder
from muster.shim.protocol import IsolationChoice

DOWN_DEADLINE_S = 45.0
"""Seconds that `down` waits for the stack to stop."""
PROCESSES = TableLayout(columns=("name", "state", "pid", "memory_mb", "restarts"))
DIRECTORY = click.Path(path_type=Path, file_okay=False, exists=True)


def _folder_option[F: Callable[..., Any]](name: str, text: str) -> Callable[[F], F]:
    return click.option(name, metavar="DIR", type=DIRECTORY, multiple=True, help=f"{text} May be repeated.")


def _stack_options[F: Callable[..., Any]](command: F) -> F:
    """Add the options `--data` and `--ready-file`, which select a running stack."""
    data = click.option(
        "--data", metavar="DIR", type=PATH, help="Select the stack of this data directory. [MUSTER_DATA_DIR]"
    )
    ready_file = click.option(
        "--ready-file", metavar="FILE", type=PATH, help="Select the stack that wrote this ready file."
    )
    return data(ready_file(command))


@click.command()
@click.option("--ephemeral", is_flag=True, help="Use free ports and, without --data, a temporary data directory.")
@click.option("--data", metavar="DIR", type=PATH, help="Keep the stack's data in DIR. [MUSTER_DATA_DIR]")
@click.option(
    "--ready-file", metavar="FILE", type=PATH, help="Write URLs, pids and keys also to FILE when the stack is ready."
)
@click.option("--detach", is_flag=True, help="Return when the stack is ready, and leave it running.")
@_folder_option("--scripts", "Let scripted models read their scripts from DIR.")
@_folder_option("--packages", "Find agent packages in DIR too, also those added later.")
@_folder_option("--repo-root", "Allow tasks with file:// repositories below DIR.")
@isolation_option
@output_option
@click.option("--remove-data", is_flag=True, hidden=True, help="Delete the data directory when the stack has stopped.")
@click.option("--ready-fd", type=int, hidden=True, help="Write ready.json to this file descriptor and close it.")
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
    form: OutputFormat,
    remove_data: bool,
    ready_fd: int | None,
) -> None:
    """Start NATS, PostgreSQL, the shim and the four services; Ctrl-C stops them.

    Without --scripts, --packages or --repo-root, the folders from the last start with this data directory are used.
    """
    data = data or configured_data_directory()
    data_dir = data if ephemeral else data_directory(data)
    if data_dir is not None:
        _make_writable(data_dir)
    folders = StackFolders(scripts=scripts, packages=packages, repo_root=repo_root)
    # If `data_dir` is None, the stack gets a new temporary directory, which contains no saved folders.
    if data_dir is not None:
        folders = folders.completed_from(data_dir)
    if detach:
        _announce(start_detached(ephemeral=ephemeral, data=data), form, stop="`muster down --data {}`")
        return
    refuse_without_isolation(isolation)
    from muster.cli.commands.stack.run_stack import run_stack
    from muster.embedded.config import StackConfig

    config = StackConfig(
        data_dir=data_dir,
        ephemeral=ephemeral,
        remove_data=remove_data,
        ready_file=ready_file,
        scripts_dirs=folders.scripts,
        repo_roots=folders.repo_root,
        isolation=isolation,
        **_servers(),
        user_env={**os.environ, **_packages_variable(folders.packages, configured("packages_dirs"))},
    )

    def announce(ready: Ready) -> None:
        folders.save(Path(ready.data_dir))
        _announce(ready, form, stop="Ctrl-C")
        if ready_fd is None:
            return
        with contextlib.suppress(BrokenPipeError), os.fdopen(ready_fd, "wb") as pipe:
            pipe.write(msgspec.json.encode(ready))

    sys.exit(asyncio.run(run_stack(config, announce)))


def _servers() -> dict[str, Any]:
    """Return the `StackConfig` fields for external NATS and PostgreSQL servers; exit with 2 if a setting is wrong."""
    from muster.common.service_process import read_settings
    from muster.common.settings import ServersSettings

    servers = read_settings(ServersSettings)
    return {
        "nats_url": servers.nats_url.get_secret_value(),
        "nats_credentials": servers.nats_credentials,
        "nats_tls": servers.nats_tls,
        "database_url": servers.database_url.get_secret_value(),
    }


def _packages_variable(folders: tuple[Path, ...], configured: str) -> dict[str, str]:
    """Return MUSTER_PACKAGES_DIRS: the option's folders, then the folders of the environment or configuration file."""
    if not folders:
        return {}
    paths = [*(str(folder.resolve()) for folder in folders), os.environ.get("MUSTER_PACKAGES_DIRS", configured)]
    return {"MUSTER_PACKAGES_DIRS": os.pathsep.join(filter(None, paths))}


def _announce(ready: Ready, form: OutputFormat, *, stop: str) -> None:
    """Print the stack's URLs, pids and stop command. Keys and passwords are not printed; they are in `ready.json`."""
    if form == "name":
        sys.stdout.write(f"{ready.data_dir}\n")
    elif form != "table":
        emit({name: getattr(ready, name) for name in ("api_url", "gateway_url", "pids", "pid", "data_dir")}, form)
    sys.stdout.flush()
    data_dir = Path(ready.data_dir)
    say(
        f"Muster is up: API {ready.api_url}, gateway {ready.gateway_url}, data {data_dir}, "
        f"key in {data_dir / 'ready.json'}. {stop.format(data_dir)} stops it."
    )
    warn_if_not_isolated(ready.isolation)


@click.command()
@_stack_options
def down(data: Path | None, ready_file: Path | None) -> None:
    """Stop a stack and return when all its processes have ended."""
    data_dir = _stack_directory(data, ready_file)
    pid = holder(data_dir)
    if pid is None:
        say(f"No stack is running in {data_dir}.")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        fail(f"`muster up` (pid {pid}) belongs to another user. Run `muster down` as that user", Exit.AUTH)
    from muster.embedded.processes import wait_for_exit

    async def gone() -> None:
        async with asyncio.timeout(DOWN_DEADLINE_S):
            await wait_for_exit(pid)

    try:
        asyncio.run(gone())
    except TimeoutError:
        fail(
            f"`muster up` (pid {pid}) was still stopping after {DOWN_DEADLINE_S:g} s. Run `muster down` again to wait",
            Exit.TIMEOUT,
        )
    say("Stopped.")


@click.command()
@_stack_options
@watch_option
@output_option
def status(data: Path | None, ready_file: Path | None, *, watch: bool, form: OutputFormat) -> None:
    """Show the processes of the stack: state, pid, memory, restarts.

    The exit code is 1 if a process is missing, and 7 if no stack runs.
    """
    data_dir = _stack_directory(data, ready_file)
    if watch:
        _keep_showing(data_dir, form)
        return
    ready, rows = _processes(data_dir)
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
        warn_if_not_isolated(ready.isolation)
    sys.exit(Exit.OK if all(row["state"] == "running" for row in rows) else Exit.FAILURE)


def _processes(data_dir: Path) -> tuple[Ready, list[Row]]:
    """Return the stack's ready file and one row for each process; end the command if no stack runs."""
    ready = read_ready_file(data_dir / "ready.json")
    if ready is None or holder(data_dir) is None:
        advice = "`muster up` starts one; --data or MUSTER_DATA_DIR selects the directory of another"
        fail(f"no stack is running in {data_dir}: {advice}", Exit.UNREACHABLE)
    return ready, [_row(name, pid, ready) for name, pid in {"up": ready.pid, **ready.pids}.items()]


def _keep_showing(data_dir: Path, form: OutputFormat) -> None:
    async def read() -> list[Row]:
        return _processes(data_dir)[1]

    try:
        asyncio.run(keep_showing(read, form, PROCESSES))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _stack_directory(data: Path | None, ready_file: Path | None) -> Path:
    """Return the data directory that `--data` or `--ready-file` selects; end the command if `ready_file` is missing."""
    if ready_file is None:
        return data_directory(data)
    ready = read_ready_file(ready_file)
    if ready is None:
        fail(f"{ready_file} does not exist, so its stack is not running. Start it with `muster up`", Exit.UNREACHABLE)
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


def _make_writable(data_dir: Path) -> None:
    """Create the data directory if it is missing; end the command if no file can be written to it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        fail(f"the data directory {data_dir} cannot be created: {error.strerror}; choose another with --data")
    try:
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        fail(f"the data directory {data_dir} cannot be written: {error.strerror}; choose another with --data")
