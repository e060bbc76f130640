"""Says which variables of other programs `muster up` uses, and which have no effect."""

from collections.abc import Mapping

from muster.cli.console.output import Exit, fail, say
from muster.common.faults import InvalidMessage


def say_aliases(env: Mapping[str, str]) -> None:
    """Print a line about the used aliases and one about the unused; end the command if a value is wrong."""
    from muster.embedded.aliases import alias_notes

    try:
        lines = alias_notes(env)
    except InvalidMessage as error:
        fail(str(error), Exit.USAGE)
    for line in lines:
        say(line)
