"""Shortens texts to a maximum length, and marks shortened texts with `…`."""


def shortened[T: str | None](text: T, most: int) -> T | str:
    """Return `text` with at most `most` characters; a shortened text ends in `…`."""
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"
