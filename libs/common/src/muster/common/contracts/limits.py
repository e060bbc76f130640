"""How much one answer holds and how large a number may be: the same for the sender, the relay and the receiver."""

from typing import Annotated

import msgspec

DEFAULT_PAGE = 50
LARGEST_PAGE = 100
"""Of tasks, agents, events and whatever else is listed."""
MOST_PAGE_BYTES = 3 << 20
"""A page ends before it has more bytes of JSON, so that it fits into a reply of 4 MiB; its cursor goes on there."""
SHORT_TEXT = 1_000
"""In characters: longer texts are shortened in lists, and whole in the answer about one."""
LONGEST_REASON = 8_000
"""In characters: why an attempt ended. The whole account of a worker is in its task and in the sandbox log."""
DEFAULT_LINES = 200
MOST_LINES = 1_000
"""Of an agent's output."""
MOST_CURSOR_CHARS = 500
MOST_DEPTH = 32
"""Of what is free JSON (metadata, config, parameters): deeper, some service behind would meet its own limit first."""
MOST_GAUGES = 1_000
"""Numbers in one report of an agent's metrics."""

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
"""A number that only grows. Every reader of JSON holds it exactly, and so does a `bigint` of PostgreSQL."""
Launch = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""The number of a launch: an `integer` of PostgreSQL."""
Epoch = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""The fencing number of an attempt: an `integer` of PostgreSQL."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
GaugeName = Annotated[str, msgspec.Meta(max_length=255)]
Gauge = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
"""A number of an agent's metrics. The bounds leave out infinity and NaN, which JSON and `jsonb` cannot hold."""
Gauges = Annotated[dict[GaugeName, Gauge], msgspec.Meta(max_length=MOST_GAUGES)]
