"""Creates ids: a prefix for the kind and a ULID in lower-case Crockford base 32, so that ids sort by time."""

import secrets
import time
from collections.abc import Callable
from typing import Literal

Prefix = Literal["agt", "tsk", "att", "sbx", "cnv", "msg", "fnd", "ivn", "usr", "key", "evt", "req"]
NewId = Callable[[Prefix], str]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_RANDOM_BITS = 80


def new_id(prefix: Prefix) -> str:
    """Return a new id such as `tsk_01jd…`, with 48 bits of milliseconds and 80 random bits (github.com/ulid/spec)."""
    number = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    return f"{prefix}_{_crockford(number)}"


def derived_id(prefix: Prefix, digest: bytes) -> str:
    """Return the id for `digest` (16 bytes or more). The same digest always gives the same id, also in a replay."""
    return f"{prefix}_{_crockford(int.from_bytes(digest[:16], 'big'))}"


def _crockford(number: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
