"""The result of one check of `muster doctor`."""

from typing import Literal, NamedTuple


class CheckResult(NamedTuple):
    """The result of one check. The verdict `blocks` means that a stack cannot start; `remedy` is advice to the user."""

    check: str
    verdict: Literal["ok", "warn", "blocks"]
    found: str
    remedy: str = ""
