"""Where tables are drawn."""

from typing import override

from rich.console import Console


class TableConsole(Console):
    """Leaves a reader that has gone to the command, which ends quietly."""

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
