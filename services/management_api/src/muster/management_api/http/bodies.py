"""Bodies of requests. Stricter than the bus: an unknown field is refused, and every value has its bounds."""

from datetime import datetime
from typing import Self

import msgspec

from muster.common.contract import Message
from muster.common.faults import InvalidMessage
from muster.common.storable import refuse_unstorable


class RequestBody(Message, forbid_unknown_fields=True):
    """The body of a request."""

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode `body` and check that it can be stored. Raises `InvalidMessage` naming the field."""
        value = super().from_json(body)
        try:
            refuse_unstorable(msgspec.to_builtins(value, builtin_types=(datetime,)))
        except RecursionError:
            raise InvalidMessage("nested too deep", field="$") from None
        return value
