"""`muster doctor`: what this machine offers a stack, tried for real, and what to do where it does not."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import click

from muster.cli.client.target import configured, data_directory, read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.console.output import Exit, Form, Shape, emit_rows, output_option, say
from muster.cli.console.table import terminal_columns
from muster.common.model_keys import provider_keys
from muster.common.terminal import printable
from muster.embedded.config import Ports
from muster.embedded.nats_server import nats_binary
from muster.embedded.parts import PortTakenError, listening_socket
from muster.embedded.postgres import postgres_binary
from muster.embedded.postgres_user import choose_postgres_user
from muster.embedded.stack_directory import holder

OLDEST_PYTHON = (3, 12)
ROOM_TO_GO_ON_MB = 300
ROOM_TO_BEGIN_MB = 3_000
"""A new stack reserves 2 GiB for its agents' streams, of the three quarters of what is free that JetStream takes."""


SHAPE = Shape(columns=("check", "verdict", "found"), name="check")


class CheckResult(NamedTuple):
    """One thing looked at."""

    check: str
    verdict: Literal["ok", "warn", "blocks"]
    found: str
    remedy: str = ""


@click.command()
@click.option("--data", metavar="DIR", type=PATH, help="The data directory to check. [MUSTER_DATA_DIR]")
@output_option
def doctor(data: Path | None, form: Form) -> None:
    """Check Python, servers, ports, user, isolation, disk and models' keys. Exit code 1 if something blocks a start."""
    place = data_directory(data)
    findings = [*_python(), *_nats(), *_postgres(), *_ports(place), *_isolation(), *_disk(place), *_models(place)]
    emit_rows([finding._asdict() for finding in findings], form, SHAPE)
    if form == "table":  # beside the rest, advice would get a few words a line
        _advise(findings)
    blocking = [finding for finding in findings if finding.verdict == "blocks"]
    look = "muster status" if data is None else f"muster status --data {shlex.quote(str(data))}"
    free = "Nothing blocks `muster up`." if holder(place) is None else f"A stack runs here: `{look}` shows it."
    say(f"{len(blocking)} of {len(findings)} checks block a start." if blocking else free)
    sys.exit(Exit.FAILURE if blocking else Exit.OK)


def _advise(findings: list[CheckResult]) -> None:
    for finding in findings:
        if finding.remedy:
            text = f"{finding.check}: {finding.remedy}"
            sys.stdout.write(
                "\n" + click.wrap_text(printable(text), width=terminal_columns(), subsequent_indent="  ") + "\n"
            )


def _python() -> Iterator[CheckResult]:
    found = f"{sys.version.split()[0]} on {sys.platform}"
    if sys.platform != "linux":
        yield CheckResult(
            "python", "blocks", found, "The embedded stack needs Linux; elsewhere point the CLI at one: --url."
        )
    elif sys.version_info[:2] < OLDEST_PYTHON:
        yield CheckResult("python", "blocks", found, "Install Python 3.12 or newer and run `make setup`.")
    else:
        yield CheckResult("python", "ok", found)


def _told(name: str) -> str:
    """Where a setting comes from, if it is set at all."""
    for key in (name, f"{name}_file"):
        if os.environ.get(variable := f"MUSTER_{key.upper()}"):
            return f"{variable} is set"
        if configured(key):
            return f"{key} is set in {os.environ['MUSTER_CONFIG']}"
    return ""


def _nats() -> Iterator[CheckResult]:
    if told := _told("nats_url"):
        yield CheckResult("nats", "ok", f"{told}: that server is used")
        return
    try:
        yield CheckResult("nats", "ok", str(nats_binary()))
    except FileNotFoundError as error:
        yield CheckResult("nats", "blocks", str(error), "Run `make setup`, or set MUSTER_NATS_URL.")


def _postgres() -> Iterator[CheckResult]:
    if told := _told("database_url"):
        yield CheckResult("postgres", "ok", f"{told}: that server is used")
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


def _ports(place: Path) -> Iterator[CheckResult]:
    ours = holder(place)
    asked = Ports()
    for name, port in (
        ("api", asked.api),
        ("gateway", asked.gateway),
        ("nats", asked.nats),
        ("postgres", asked.postgres),
    ):
        check = f"port {port}"
        try:
            listening_socket(name, port).close()
        except PortTakenError:
            if ours is None:
                remedy = "Stop what listens there, or use `muster up --ephemeral`."
                yield CheckResult(check, "blocks", f"taken; {name} needs it", remedy)
            else:
                yield CheckResult(check, "ok", f"in use while the stack runs (pid {ours})")
        else:
            yield CheckResult(check, "ok", f"free for {name}")


def _isolation() -> Iterator[CheckResult]:
    from muster.shim.isolation import IsolationMissing, IsolationSelector

    with tempfile.TemporaryDirectory(prefix="muster-doctor-") as state:
        try:
            isolation = IsolationSelector.probed("auto", Path(state)).isolation
        except IsolationMissing as missing:
            yield CheckResult("isolation", "blocks", f"agents cannot be isolated: {missing.why}", f"{missing.remedy}.")
        else:
            yield CheckResult("isolation", "ok", f"{isolation.level}: {isolation.why}")


def _disk(place: Path) -> Iterator[CheckResult]:
    standing = next(path for path in (place, *place.absolute().parents) if path.exists())
    if not os.access(standing, os.W_OK | os.X_OK):
        yield CheckResult("disk", "blocks", f"{standing} cannot be written", "Choose a data directory with --data.")
        return
    free_mb = shutil.disk_usage(standing).free // 1_000_000
    found = f"{free_mb} MB free for {place}"
    begun = (place / "nats").exists()
    if free_mb < (ROOM_TO_GO_ON_MB if begun else ROOM_TO_BEGIN_MB):
        remedy = f"A stack wants {ROOM_TO_BEGIN_MB} MB: free some space, or choose another place with --data."
        yield CheckResult("disk", "blocks", found, remedy)
    elif free_mb < ROOM_TO_BEGIN_MB:
        yield CheckResult("disk", "warn", found, "Enough to go on here; a fleet at work wants more.")
    else:
        yield CheckResult("disk", "ok", found)


def _models(place: Path) -> Iterator[CheckResult]:
    """Of the stack that runs, otherwise of one that would be started here. Names of variables, never what they hold."""
    env, whose = _gateway_environment(place), "the running gateway has"
    if env is None:
        env, whose = os.environ, "`muster up` would find here"
    found = [f"{key.provider} ({key.found})" for key in provider_keys(env) if key.found]
    if found:
        yield CheckResult("model keys", "ok", f"{whose} {', '.join(found)}")
        return
    remedy = (
        "Export one where the stack is started, as OPENAI_API_KEY. Models that need none (a server of your own, a "
        "script of `muster up --scripts`) work without."
    )
    yield CheckResult("model keys", "warn", f"{whose} no provider's key", remedy)


def _gateway_environment(place: Path) -> dict[str, str] | None:
    """By name, what the gateway of the stack that runs there was given for models; None if none runs."""
    if holder(place) is None or (ready := read_ready_file(place / "ready.json")) is None:
        return None
    return {name: name for name in ready.model_keys}
