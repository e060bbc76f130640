"""How long free JSON is once PostgreSQL has stored it."""

import math
from typing import Any, cast

from muster.common.contract import encode

_WRITTEN_OUT = 16
"""Beyond so many zeros a number is sent with an exponent."""


def stored_bytes(value: Any) -> int:  # noqa: ANN401 - any JSON
    """Bytes of JSON as `jsonb` gives it back: it writes numbers without an exponent, 1e300 with all of its zeros."""
    size = len(encode(value))
    ahead: list[Any] = [value]
    while ahead:
        one = ahead.pop()
        match one:
            case float() if one and math.isfinite(one):
                zeros = abs(math.floor(math.log10(abs(one))))
                size += zeros if zeros > _WRITTEN_OUT else 0
            case dict():
                ahead += cast("dict[str, Any]", one).values()
            case list():
                ahead += cast("list[Any]", one)
            case _:
                continue
    return size
