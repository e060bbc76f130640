"""Shows the progress of a stack while it starts: one row for each part with its state and seconds.

On a terminal the rows are updated in place. Otherwise each part that becomes ready gives one plain line. The daemon of
`up --detach` writes each change to a pipe instead, and the command that started the daemon shows the changes.
"""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from muster.cli.console.output import say
from muster.embedded.start_progress import PartProgress

if TYPE_CHECKING:
    from rich.console import RenderableType

_NAME_CHARS = 16
_TEXTS = {
    "migrated": "database schema up to date after {seconds:.1f} s",
    "ready": "ready after {seconds:.1f} s",
    "died": "died and was started again; its log says why: muster logs {part}",
    "restarted": "restarted",
    "failed": "failed after {seconds:.1f} s",
}


_SIGNS = {"ready": ("✓", "green"), "failed": ("✗", "red"), "stopped": ("·", "dim")}
"""Sign and colour of a part on a terminal, by its state. Parts in other states have a spinner."""


class StartView(Protocol):
    """A display of the start of a stack, from `__enter__` to `__exit__`. Later changes are printed as plain lines."""

    def show(self, progress: PartProgress) -> None:
        """Show a change of one part."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def start_view(*, in_place: bool) -> StartView:
    """Return a view whose rows change in place if stderr is a terminal and `in_place` is True; else plain lines."""
    return StartScreen() if in_place and sys.stderr.isatty() else StartLines()


def progress_text(progress: PartProgress) -> str | None:
    """Return a line about the change, such as `nats  ready after 0.4 s`; None for a change that gives no line."""
    text = _TEXTS.get(progress.state)
    if text is None:
        return None
    return f"{progress.part:<{_NAME_CHARS}}{text.format(part=progress.part, seconds=progress.seconds)}"


class StartLines:
    """Prints one line on stderr for each part that becomes ready, fails or dies."""

    def show(self, progress: PartProgress) -> None:
        """Print the change; print nothing for a part that begins to start."""
        if text := progress_text(progress):
            say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class StartScreen:
    """Shows one row for each part on a terminal: a spinner while the part starts, then `✓` with the seconds."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._parts: dict[str, PartProgress] = {}
        self._schemas: dict[str, float] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live: Live | None = Live(
            console=Console(stderr=True, highlight=False), refresh_per_second=8, get_renderable=self._rows
        )

    def show(self, progress: PartProgress) -> None:
        """Change the part's row. Print a plain line instead if the start is over."""
        if self._live is None:
            StartLines().show(progress)
            return
        before = self._parts.get(progress.part)
        if progress.state == "stopped" and before and before.state == "failed":
            return
        if progress.state == "migrated":
            self._schemas[progress.part] = progress.seconds
        self._parts[progress.part] = progress

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live:
            live.stop()

    def _rows(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 1))
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, min_width=_NAME_CHARS)
        rows.add_column(no_wrap=True, justify="right")
        rows.add_column(no_wrap=True, style="dim", overflow="ellipsis")
        for name, progress in list(self._parts.items()):
            schema = f"schema {self._schemas[name]:.1f} s" if name in self._schemas else ""
            seconds = f"{progress.seconds:.1f} s" if progress.state in ("ready", "failed") else ""
            sign = Text(*_SIGNS[progress.state]) if progress.state in _SIGNS else self._spinner
            rows.add_row(sign, name, seconds, schema)
        return rows


class StartPipe:
    """Writes each change as a JSON line to a file descriptor, and closes the descriptor when the start is over."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "wb", buffering=0)

    def show(self, progress: PartProgress) -> None:
        """Write the change; write nothing if the start is over or the reader has gone."""
        if self._pipe.closed:
            return
        try:
            self._pipe.write(msgspec.json.encode(progress) + b"\n")
        except BrokenPipeError:
            self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()


def read_start_pipe(descriptor: int, show: Callable[[PartProgress], None]) -> None:
    """Read the changes that a `StartPipe` writes, and call `show` for each one, until the pipe is closed."""
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            show(msgspec.json.decode(line, type=PartProgress))
