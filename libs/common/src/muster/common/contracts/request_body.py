"""The base class of HTTP request bodies, which the API decodes and the client encodes.

Unlike in NATS messages, unknown fields are refused and values are limited.
"""

from datetime import datetime
from typing import Self

import msgspec

from muster.common.contract import Message
from muster.common.faults import InvalidMessage
from muster.common.storable_values import refuse_unstorable


class RequestBody(Message, forbid_unknown_fields=True, omit_defaults=True):
    """The JSON body of an HTTP request. A field that has its default value is not sent."""

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Decode a JSON body and check that its values can be stored. Raises `InvalidMessage` with the wrong field."""
        value = super().from_json(body)
        try:
            refuse_unstorable(msgspec.to_builtins(value, builtin_types=(datetime,)))
        except RecursionError:
            raise InvalidMessage("the JSON body has too many levels", field="$") from None
        return value
