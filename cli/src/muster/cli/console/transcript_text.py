"""Formats the entries of a transcript for a person: headings of attempts, folded outputs, wrapped words."""

from collections.abc import Iterator
from typing import TextIO

import click
import msgspec

from muster.cli.console import agent_events
from muster.cli.console.event_line import coloured
from muster.cli.console.large_bodies import WHOLE_BODY
from muster.cli.console.table import shortened, terminal_columns
from muster.cli.console.transcript import EntryKind, TranscriptEntry
from muster.cli.console.wrapping import wrapped_command, wrapped_line
from muster.common.terminal import one_line, printable, printable_lines

FOLDED_HEAD, FOLDED_TAIL = 8, 4
"""Lines of a long output that are shown from its beginning and from its end. A failure is often told at the end."""
DELIVERED_CHARS = 60
"""Characters of a delivered steering message that are shown. Its full text precedes it, when it was issued."""
LONGEST_LINE = 500
"""Characters of one output line that are shown without `--full`."""
_INDENT = " " * 10
_OUTPUT = _INDENT + "| "
_COLOURS: dict[EntryKind, str] = {
    "task": "cyan",
    "sandbox": "cyan",
    "result": "cyan",
    "command": "bright_white",
    "output": "bright_black",
    "steering": "yellow",
    "guardian": "yellow",
    "error": "red",
}
_LABELLED = frozenset(("task", "sandbox", "thought", "steering", "guardian", "error", "result", "event"))
"""Kinds of entries that begin with their kind. A command begins with `$`, and a message with its author."""


class TranscriptText:
    """Formats entries one after another, and remembers the attempt for which the last heading was printed.

    `columns` is the width to which words are wrapped; None wraps nothing.
    """

    def __init__(self, *, full: bool, columns: int | None, colours: bool = False) -> None:
        self._full, self._columns, self._colours = full, columns, colours
        self._attempt: int | None = None

    @classmethod
    def of_stream(cls, stream: TextIO, *, full: bool) -> "TranscriptText":
        """Return a formatter for a stream: words are wrapped and coloured only on a terminal."""
        columns = terminal_columns() if stream.isatty() else None
        return cls(full=full, columns=columns, colours=coloured(stream))

    def lines(self, entry: TranscriptEntry) -> list[str]:
        """Return the lines of an entry, without control characters; before them, a heading if the attempt is new."""
        entry = entry if self._full else self._abridged(entry)
        lines: list[str] = []
        if entry.attempt is not None and entry.attempt != self._attempt:
            self._attempt = entry.attempt
            lines += ["", self._heading(entry)]
        colour = _COLOURS.get(entry.kind) if self._colours else None
        body = self._output(entry) if entry.kind == "output" else self._words(entry)
        return lines + [click.style(line, fg=colour) if colour else line for line in body]

    @staticmethod
    def _abridged(entry: TranscriptEntry) -> TranscriptEntry:
        """Return the entry with relative paths. Of a delivered message, the beginning is enough to recognize it."""
        text = agent_events.relative_paths(entry.text, entry.sandbox_id)
        if entry.kind == "steering":
            text = shortened(one_line(text), DELIVERED_CHARS)
        return msgspec.structs.replace(entry, text=text)

    def _heading(self, entry: TranscriptEntry) -> str:
        title = f"── attempt {entry.attempt} · {printable(entry.sandbox_id or '')} "
        line = title.ljust(min(self._columns or 80, 80), "─")
        return click.style(line, bold=True) if self._colours else line

    def _words(self, entry: TranscriptEntry) -> Iterator[str]:
        label = f"{entry.kind}: " if entry.kind in _LABELLED else ""
        first, *more = self._folded(f"{label}{entry.text}")
        time = f"{entry.at.astimezone():%H:%M:%S}  "
        yield from wrapped_line(first, _INDENT, self._columns, first=time)
        for line in more:
            wrapped = wrapped_command if line.startswith(WHOLE_BODY) else wrapped_line
            yield from wrapped(line, _INDENT, self._columns, first=_INDENT)

    def _output(self, entry: TranscriptEntry) -> Iterator[str]:
        for line in self._folded(entry.text or "(no output)"):
            yield from self._output_line(line)
        if entry.exit_code:
            yield f"{_OUTPUT}exit code {entry.exit_code}"

    def _output_line(self, line: str) -> list[str]:
        # A ruled line, such as pytest's, is cut, because its wrapped rest would look like another ruled line.
        if self._columns is not None and len(set(line)) == 1:
            line = line[: max(self._columns - len(_OUTPUT), 1)]
        return wrapped_line(line, _OUTPUT, self._columns, first=_OUTPUT)

    def _folded(self, text: str) -> list[str]:
        """Return the lines of a text; without `--full`, only its first and last lines, and how many are hidden."""
        lines = printable_lines(text).replace("\t", "    ").split("\n")
        hidden = len(lines) - FOLDED_HEAD - FOLDED_TAIL
        if self._full:
            return lines
        if hidden > 1:
            fold = f"… {hidden} more lines (--full)"
            lines = [*lines[:FOLDED_HEAD], fold, *lines[-FOLDED_TAIL:]]
        return [shortened(line, LONGEST_LINE) for line in lines]
