"""The rich console that prints tables. Its own module, so that other commands do not import rich."""

from typing import override

from rich.console import Console


class TableConsole(Console):
    """A rich console that raises `BrokenPipeError` when stdout is closed.

    Rich itself would exit with 1; the root command exits with 141, as for every other output.
    """

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
