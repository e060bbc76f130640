"""How many made-up cases hypothesis tries: few and always the same in `make test`, many and new ones in `make stress`."""

import os
from typing import Any

from hypothesis import settings

FULL = os.environ.get("MUSTER_STRESS") == "full"
FEW, MANY = 20, 200


def cases(few: int = FEW, many: int = MANY, **more: Any) -> settings:
    """Settings for `few` fixed cases, or `many` random ones where `MUSTER_STRESS=full`; none has a deadline of its own."""
    return settings(max_examples=many if FULL else few, derandomize=not FULL, deadline=None, **more)
