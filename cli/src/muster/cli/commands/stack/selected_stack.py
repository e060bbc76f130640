"""Selects the stack that a command is about by the options `--data` and `--ready-file`, and the parts by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, override

import click

from muster.cli.client.target import data_directory, read_ready_file
from muster.cli.commands.call_api import PATH
from muster.cli.console.output import Exit, fail
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import holder

PARTS = ("nats", "postgres", "shim", "agent_manager", "sandbox_gateway", "guardian", "management_api")
"""The names of all parts, as in `ready.json` and in the names of log files."""
SHORT_NAMES = {"api": "management_api", "gateway": "sandbox_gateway", "manager": "agent_manager"}
"""Short names of parts, which commands accept too."""


class PartName(click.Choice[str]):
    """The name of a part of the stack. A command receives the full name, also if the user gave the short name."""

    def __init__(self, *more: str) -> None:
        super().__init__((*(name for name in PARTS if name not in SHORT_NAMES.values()), *SHORT_NAMES, *more))

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if value in PARTS else SHORT_NAMES.get(value) or super().convert(value, param, ctx)


def stack_options[F: Callable[..., Any]](command: F) -> F:
    """Add the options `--data` and `--ready-file`, which select a running stack."""
    data = click.option(
        "--data", metavar="DIR", type=PATH, help="Select the stack of this data directory. [MUSTER_DATA_DIR]"
    )
    ready_file = click.option(
        "--ready-file", metavar="FILE", type=PATH, help="Select the stack that wrote this ready file."
    )
    return data(ready_file(command))


def stack_directory(data: Path | None, ready_file: Path | None) -> Path:
    """Return the data directory that `--data` or `--ready-file` selects; end the command if `ready_file` is missing."""
    if ready_file is None:
        return data_directory(data)
    ready = read_ready_file(ready_file)
    if ready is None:
        fail(f"{ready_file} does not exist, so its stack is not running. Start it with `muster up`", Exit.UNREACHABLE)
    return Path(ready.data_dir)


def running_stack(data_dir: Path) -> Ready:
    """Return the ready file of the stack in `data_dir`; end the command if no stack runs there."""
    ready = read_ready_file(data_dir / "ready.json")
    if ready is None or holder(data_dir) is None:
        advice = "`muster up` starts one; --data or MUSTER_DATA_DIR selects the directory of another"
        fail(f"no stack is running in {data_dir}: {advice}", Exit.UNREACHABLE)
    return ready
