"""Heads of HTTP requests without their offers to upgrade, which nobody here takes."""

import re

_BLANK, _OFFER = b"\r\n\r\n", re.compile(rb"(?i)(?<=\r\n)upgrade(?=[ \t]*:)")
_BEGUN = re.compile(rb"(?i)\r(\n(\r|u(p(g(r(a(d(e[ \t]*)?)?)?)?)?)?)?)?$")
"""The end of a piece of a head that may go on with the end of the head, or with an offer."""


class Upgrades:
    """Renames the offer in what comes in. What may be the beginning of one waits for the next piece."""

    def __init__(self) -> None:
        self._held = b""

    def without(self, piece: bytes) -> bytes:
        """A head, or a piece of one, maybe with a part of its body; not for a piece that begins in a body."""
        piece, self._held = self._held + piece, b""
        head, blank, rest = piece.partition(_BLANK)
        if not blank and (begun := _BEGUN.search(piece)):
            head, self._held = piece[: begun.start()], piece[begun.start() :]
        if b"pgrade" in head.lower():
            head = _OFFER.sub(b"x-pgrade", head)
        return head + blank + rest
