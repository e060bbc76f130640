"""Shows on a terminal what a command waits for, on one line of stderr that the next output replaces.

The line is redrawn every half second, so that its seconds run. `clear` removes the line before other output. No escape
codes are needed: the line is overwritten with spaces, and the cursor stays at the line's beginning, so that a message
of another part of the program replaces the line too. Without a terminal nothing is printed.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from muster.cli.console.table import shortened
from muster.common.terminal import one_line

REDRAWN_EVERY_S = 0.5
USUAL_COLUMNS = 80


class StatusLine:
    """The status line of a command; `text` returns the present text, and an empty text hides the line."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._shown_columns = 0
        self._timer: asyncio.TimerHandle | None = None
        self.enabled = sys.stderr.isatty()

    @contextmanager
    def shown(self) -> Generator[None]:
        """Redraw the line from the running event loop while the context is open; remove the line at the end."""
        if not self.enabled:
            yield
            return
        self._redraw_later()
        try:
            yield
        finally:
            if self._timer:
                self._timer.cancel()
            self.clear()

    def clear(self) -> None:
        """Remove the line, so that other output can take its place."""
        if self._shown_columns:
            self._write("\r" + " " * self._shown_columns + "\r")
            self._shown_columns = 0

    def _redraw_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(REDRAWN_EVERY_S, self._redraw)

    def _redraw(self) -> None:
        self._draw(one_line(self._text()))
        self._redraw_later()

    def _draw(self, text: str) -> None:
        from rich.cells import cell_len, set_cell_size

        # A line of the terminal's full width would wrap, and the wrapped part could not be removed. A terminal without
        # a size has 0 columns.
        room = (os.get_terminal_size(sys.stderr.fileno()).columns or USUAL_COLUMNS) - 1
        if cell_len(text) > room:
            text = set_cell_size(shortened(text, room), room)
        columns = cell_len(text)
        self._write(text + " " * max(self._shown_columns - columns, 0) + "\r")
        self._shown_columns = columns

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
