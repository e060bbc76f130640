"""Decides when a failed model call may be repeated: the pause doubles with each failure, up to 30 s."""

LONGEST_PAUSE_S = 30.0
MOST_ASKED_S = 300.0
"""The longest pause, in seconds, that a provider can ask for with `Retry-After`."""


def pause_s(tries: int, asked_s: float = 0.0) -> float:
    """Return the seconds until the next call after `tries` calls have failed in a row.

    `asked_s` is the pause that the provider asks for; a longer pause than the gateway's own is obeyed.
    """
    own_s = min(2.0 ** (min(tries, 16) - 1), LONGEST_PAUSE_S)
    return max(own_s, min(asked_s, MOST_ASKED_S))
