"""Defines the rich console that prints tables.

Only `print_table` imports this module, and only to print a table, because the import of rich is slow.
"""

from typing import override

from rich.console import Console


class TableConsole(Console):
    """A rich console that raises `BrokenPipeError` when stdout is closed.

    Rich itself would end the process with exit code 1. The root command handles the error and exits with 141.
    """

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
