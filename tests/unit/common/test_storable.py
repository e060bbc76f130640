"""Values that PostgreSQL can store."""

import pytest

from muster.common.faults import InvalidMessage
from muster.common.storable_values import refuse_unstorable


@pytest.mark.parametrize(
    ("value", "field"), [({"a": ["x", "y\0"]}, "$.a[1]"), ({"a\0": 1}, "$"), ({"m": {"n": "\0"}}, "$.m.n")]
)
def test_nul_is_refused_with_its_position(value: object, field: str):
    with pytest.raises(InvalidMessage) as refused:
        refuse_unstorable(value)

    assert refused.value.field == field


def test_great_depth_is_refused_and_usual_depth_is_not():
    refuse_unstorable(_nested(20))
    with pytest.raises(InvalidMessage, match="deeper than 32"):
        refuse_unstorable(_nested(40))


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value
