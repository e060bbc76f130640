"""Implements `muster doctor`, which checks whether this machine can run a stack and advises what to do if not.

The checks try parts of a start: they listen on the ports, start an isolated process and search for the servers'
binaries.
"""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from muster.cli.client.target import configured, data_directory, read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.commands.check_result import CheckResult
from muster.cli.commands.daytona_check import daytona_check
from muster.cli.commands.left_sandboxes import left_sandboxes_check
from muster.cli.console.output import Exit, OutputFormat, TableLayout, emit_rows, output_option, say
from muster.cli.console.table import terminal_columns
from muster.common.model_entries import stored_models
from muster.common.model_keys import provider_keys
from muster.common.terminal import printable
from muster.embedded.config import Ports
from muster.embedded.nats_server import nats_binary
from muster.embedded.parts import PortTakenError, listening_socket
from muster.embedded.postgres import postgres_binary
from muster.embedded.postgres_user import choose_postgres_user
from muster.embedded.stack_directory import holder

OLDEST_PYTHON = (3, 12)
MIN_FREE_MB = 300
"""Free disk space in megabytes that an existing stack needs."""
MIN_FREE_NEW_STACK_MB = 3_000
"""Free disk space in megabytes that a new stack needs. The stack reserves 2 GiB for its agents' streams, and JetStream
may use three quarters of the free space."""


SHAPE = TableLayout(columns=("check", "verdict", "found"), name="check")


@click.command()
@click.option("--data", metavar="DIR", type=PATH, help="Check the data directory DIR. [MUSTER_DATA_DIR]")
@output_option
def doctor(data: Path | None, form: OutputFormat) -> None:
    """Check whether this machine can run a stack.

    Checks Python, the servers, ports, user, isolation, disk and the keys of model providers. If Daytona is configured,
    makes, uses and deletes a sandbox there. The exit code is 1 if something prevents a start.
    """
    data_dir = data_directory(data)
    results = [
        *(*_python(), *_nats(), *_postgres(), *_ports(data_dir)),
        *(*_isolation(), *_disk(data_dir), *_model_keys(data_dir)),
        *(*daytona_check(data_dir), *left_sandboxes_check(data_dir)),
    ]
    emit_rows([result._asdict() for result in results], form, SHAPE)
    if form == "table":
        # The advice is printed below the table, because a table column would show only a few words per line.
        _print_remedies(results)
    blocking = [result for result in results if result.verdict == "blocks"]
    command = "muster status" if data is None else f"muster status --data {shlex.quote(str(data))}"
    ready = "Nothing blocks `muster up`." if holder(data_dir) is None else f"A stack runs here: `{command}` shows it."
    say(f"{len(blocking)} of {len(results)} checks block a start." if blocking else ready)
    sys.exit(Exit.FAILURE if blocking else Exit.OK)


def _print_remedies(results: list[CheckResult]) -> None:
    for result in results:
        if result.remedy:
            text = f"{result.check}: {result.remedy}"
            sys.stdout.write(
                "\n" + click.wrap_text(printable(text), width=terminal_columns(), subsequent_indent="  ") + "\n"
            )


def _python() -> Iterator[CheckResult]:
    found = f"{sys.version.split()[0]} on {sys.platform}"
    if sys.platform != "linux":
        yield CheckResult("python", "blocks", found, "Run the stack on Linux, and call it from here with --url.")
    elif sys.version_info[:2] < OLDEST_PYTHON:
        yield CheckResult("python", "blocks", found, "Install Python 3.12 or newer and run `make setup`.")
    else:
        yield CheckResult("python", "ok", found)


def _setting_source(name: str) -> str:
    """Return a text that names the variable or file with the setting `name`; an empty string if `name` is not set."""
    for key in (name, f"{name}_file"):
        if os.environ.get(variable := f"MUSTER_{key.upper()}"):
            return f"{variable} is set"
        if configured(key):
            return f"{key} is set in {os.environ['MUSTER_CONFIG']}"
    return ""


def _nats() -> Iterator[CheckResult]:
    if source := _setting_source("nats_url"):
        yield CheckResult("nats", "ok", f"{source}: that server is used")
        return
    try:
        yield CheckResult("nats", "ok", str(nats_binary()))
    except FileNotFoundError as error:
        yield CheckResult("nats", "blocks", str(error), "Run `make setup`, or set MUSTER_NATS_URL.")


def _postgres() -> Iterator[CheckResult]:
    if source := _setting_source("database_url"):
        yield CheckResult("postgres", "ok", f"{source}: that server is used")
        return
    try:
        binary = postgres_binary()
        yield CheckResult("postgres", "ok", str(binary))
        yield CheckResult("user", "ok", f"uid {os.geteuid()}; PostgreSQL runs {choose_postgres_user(binary)}")
    except FileNotFoundError as error:
        yield CheckResult("postgres", "blocks", str(error), "Run `make setup`, or set MUSTER_DATABASE_URL.")
    except PermissionError as error:
        found, _, remedy = str(error).partition(". ")
        yield CheckResult("user", "blocks", found, remedy)


def _ports(data_dir: Path) -> Iterator[CheckResult]:
    stack_pid = holder(data_dir)
    ports = Ports()
    for name, port in (
        ("api", ports.api),
        ("gateway", ports.gateway),
        ("nats", ports.nats),
        ("postgres", ports.postgres),
    ):
        check = f"port {port}"
        try:
            listening_socket(name, port).close()
        except PortTakenError:
            if stack_pid is None:
                remedy = "Stop the process that listens there, or use `muster up --ephemeral`."
                yield CheckResult(check, "blocks", f"taken; {name} needs it", remedy)
            else:
                yield CheckResult(check, "ok", f"in use while the stack runs (pid {stack_pid})")
        else:
            yield CheckResult(check, "ok", f"free for {name}")


def _isolation() -> Iterator[CheckResult]:
    from muster.cli.commands.isolation_check import isolation_check

    yield from isolation_check()
    yield _limits()


def _limits() -> CheckResult:
    """Say how the limits of agents' resources hold on this machine."""
    from muster.shim.cgroups import CONTROLLERS, WorkerCgroups

    with tempfile.TemporaryDirectory(prefix="muster-doctor-") as state:
        cgroups, why = WorkerCgroups.opened(Path(state))
    if cgroups is not None:
        cgroups.close()
    if cgroups is not None and cgroups.controllers == frozenset(CONTROLLERS):
        return CheckResult("limits", "ok", f"cgroup: {why}")
    return CheckResult(
        "limits", "ok", f"rlimits: limits of each process and measurements, weaker than cgroup v2: {why}"
    )


def _disk(data_dir: Path) -> Iterator[CheckResult]:
    existing = next(path for path in (data_dir, *data_dir.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield CheckResult("disk", "blocks", f"{existing} cannot be written", "Choose a data directory with --data.")
        return
    free_mb = shutil.disk_usage(existing).free // 1_000_000
    found = f"{free_mb} MB free for {data_dir}"
    has_data = (data_dir / "nats").exists()
    if free_mb < (MIN_FREE_MB if has_data else MIN_FREE_NEW_STACK_MB):
        remedy = f"A stack needs {MIN_FREE_NEW_STACK_MB} MB: free some space, or choose another directory with --data."
        yield CheckResult("disk", "blocks", found, remedy)
    elif free_mb < MIN_FREE_NEW_STACK_MB:
        yield CheckResult(
            "disk", "warn", found, "Enough for the existing stack. Free some space before you run a fleet."
        )
    else:
        yield CheckResult("disk", "ok", found)


def _model_keys(data_dir: Path) -> Iterator[CheckResult]:
    """Check which model providers' keys the running stack has or, if no stack runs, this environment has.

    The result contains names of variables, never their values.
    """
    env, subject = _gateway_model_keys(data_dir), "the running gateway has"
    if env is None:
        env, subject = os.environ, "`muster up` would find here"
    found = [f"{key.provider} ({key.found})" for key in provider_keys(env) if key.found]
    found += [f"{name} (models.toml)" for name in stored_models(data_dir)]
    if found:
        yield CheckResult("model keys", "ok", f"{subject} {', '.join(found)}")
        return
    remedy = (
        "Export a provider's key, for instance OPENAI_API_KEY, in the shell that starts the stack. Models of your own "
        "server and scripted models (`muster up --scripts`) need no key."
    )
    yield CheckResult("model keys", "warn", f"{subject} no provider's key, and no stored model", remedy)


def _gateway_model_keys(data_dir: Path) -> dict[str, str] | None:
    """Return the names of the model key variables that the running gateway has; None if no stack runs.

    The result maps each name to itself, because `provider_keys` needs a mapping and `ready.json` contains only names.
    """
    if holder(data_dir) is None or (ready := read_ready_file(data_dir / "ready.json")) is None:
        return None
    return {name: name for name in ready.model_keys}
