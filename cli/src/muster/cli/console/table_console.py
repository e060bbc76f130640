"""Defines the rich console that prints tables.

Only `print_table` imports this module, and only when it prints a table: the import of rich is slow.
"""

from typing import override

from rich.console import Console


class TableConsole(Console):
    """A rich console that raises `BrokenPipeError` when stdout is closed.

    Rich itself would exit with 1; the root command exits with 141, as for every other output.
    """

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
