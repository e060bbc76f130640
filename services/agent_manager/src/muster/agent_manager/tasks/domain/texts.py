"""Texts that are cut to a bound, and say so."""


def shortened[T: str | None](text: T, most: int) -> T | str:
    """`text` with at most `most` characters; a shortened one ends in `…`."""
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"
