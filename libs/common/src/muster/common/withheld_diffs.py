"""The first line of a stored diff in which the gateway has replaced secrets. Such a diff is never delivered.

git writes no such line, and `git apply` skips it. A worker could write the line too, and so only withhold its own diff.
"""

from collections.abc import Sequence
from typing import Final

_BEGIN: Final = "# Muster replaced secrets in this diff: "


def withheld(diff: str, secrets: Sequence[str]) -> str:
    """Return a diff with a first line that names the secrets which were replaced in it; the same diff without any."""
    return f"{_BEGIN}{', '.join(secrets)}\n{diff}" if secrets else diff


def withheld_secrets(diff: str) -> str | None:
    """Return the names of the secrets that were replaced in a diff, with commas between them; None without any."""
    return diff.partition("\n")[0].removeprefix(_BEGIN) if diff.startswith(_BEGIN) else None
