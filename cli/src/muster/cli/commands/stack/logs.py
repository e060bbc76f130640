"""Implements `muster logs`, which prints the logs of the parts of a stack on this machine."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import click

from muster.cli.commands.stack.log_entry import LogEntry
from muster.cli.commands.stack.log_file import LogFile
from muster.cli.commands.stack.selected_stack import PARTS, PartName, stack_directory, stack_options
from muster.cli.console.agent_log_lines import readable_lines
from muster.cli.console.output import Exit, OutputFormat, emit, fail, output_option, say
from muster.cli.console.params import parse_past
from muster.common.clock import utc_now

DEFAULT_ENTRIES = 50
_NAME_CHARS = max(map(len, PARTS))
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@click.command()
@click.argument("services", metavar="[SERVICE]...", type=PartName("up"), nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Wait for new lines until Ctrl-C.")
@click.option(
    *("-n", "--tail", "most"),
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Show the last N lines of each part.  [default: {DEFAULT_ENTRIES}; with --since: all]",
)
@click.option("--since", metavar="TIME", help="Show the lines since TIME: 10m, 2h or 2026-12-31T00:00:00Z.")
@stack_options
@output_option
def logs(
    services: tuple[str, ...],
    *,
    follow: bool,
    most: int | None,
    since: str | None,
    data: Path | None,
    ready_file: Path | None,
    form: OutputFormat,
) -> None:
    """Show the logs of SERVICEs, or of all parts of the stack.

    SERVICE is nats, postgres, shim, manager, gateway, guardian, api, or up for the stack's own log. Lines of several
    parts are in the order of their time and begin with the part's name. -o jsonl prints the log records; their field
    `log` is the name of the part.
    """
    if follow and form in ("json", "yaml"):
        raise click.UsageError("-f needs -o table, jsonl or name: a JSON or YAML document would never end")
    folder = stack_directory(data, ready_file) / "logs"
    if not folder.is_dir():
        fail(f"{folder} does not exist: no stack has run there yet; --data selects another directory", Exit.NOT_FOUND)
    begin = parse_past(since, utc_now())
    if most is None and begin is None:
        most = DEFAULT_ENTRIES
    parts = tuple(dict.fromkeys(services)) or ("up", *PARTS)
    printer = _LogPrinter(form, with_part=len(parts) > 1)
    with ExitStack() as files:
        logs = [files.enter_context(closing(LogFile(part, folder))) for part in parts]
        if follow:
            asyncio.run(_follow(logs, folder, printer, most, begin))
        entries = _by_time(entry for log in logs for entry in log.last_entries(most, begin))
        printer.print(entries)
        if not entries:
            say(
                f"No lines of {', '.join(parts)} in {folder}" + (f" since {since}." if since else ".") + "\n"
                "A part writes a line only when it has something to tell; `muster ps` shows whether it runs."
            )


async def _follow(
    logs: Sequence[LogFile], folder: Path, printer: "_LogPrinter", most: int | None, since: datetime | None
) -> None:
    from muster.cli.commands.stack.folder_watch import watched_folder

    with watched_folder(folder) as watch:
        printer.print(_by_time(entry for log in logs for entry in log.last_entries(most, since)))
        while True:
            await watch.changed()
            printer.print(_by_time(entry for log in logs for entry in log.new_entries()))


def _by_time(entries: Iterable[LogEntry]) -> list[LogEntry]:
    """Sort entries by time. An entry without a time stays behind the entry before it in the same log."""
    keys: list[tuple[datetime, LogEntry]] = []
    part, at = "", _EARLIEST
    for entry in entries:
        at = entry.at or (at if entry.part == part else _EARLIEST)
        part = entry.part
        keys.append((at, entry))
    return [entry for _, entry in sorted(keys, key=lambda key: key[0])]


class _LogPrinter:
    """Prints log entries in the format of `-o`."""

    def __init__(self, form: OutputFormat, *, with_part: bool) -> None:
        self._form, self._with_part = form, with_part

    def print(self, entries: Sequence[LogEntry]) -> None:
        """Print the entries to stdout: as text with local time, as records, or the name of each entry's part."""
        match self._form:
            case "json" | "yaml":
                emit([entry.fields() for entry in entries], self._form)
            case "jsonl":
                for entry in entries:
                    emit(entry.fields(), "jsonl")
            case "name":
                sys.stdout.writelines(f"{entry.part}\n" for entry in entries)
            case _:
                for entry in entries:
                    self._print_text(entry)
        sys.stdout.flush()

    def _print_text(self, entry: LogEntry) -> None:
        time = f"{entry.at.astimezone():%H:%M:%S}" if entry.at else " " * 8
        prefix = f"{time}  {entry.part:<{_NAME_CHARS}}  " if self._with_part else f"{time}  "
        first, *more = readable_lines(entry.readable)
        sys.stdout.write(f"{prefix}{first}".rstrip() + "\n")
        for text in more:
            sys.stdout.write(f"{'':<{len(prefix)}}{text}\n")
