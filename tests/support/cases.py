"""Sets the number of hypothesis examples: few fixed ones in `make test`, many random ones in `make stress`."""

import os
from typing import Any

from hypothesis import settings

FULL = os.environ.get("MUSTER_STRESS") == "full"
FEW, MANY = 20, 200


def cases(few: int = FEW, many: int = MANY, **more: Any) -> settings:
    """Return hypothesis settings for `few` fixed examples, or `many` random ones if `MUSTER_STRESS=full`."""
    return settings(max_examples=many if FULL else few, derandomize=not FULL, deadline=None, **more)
