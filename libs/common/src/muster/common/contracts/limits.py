"""Limits of page sizes and of numbers in messages. Every service that passes on a message uses the same limits."""

from typing import Annotated

import msgspec

DEFAULT_PAGE = 50
LARGEST_PAGE = 100
"""The largest page of tasks, agents, events or other lists."""
MOST_PAGE_BYTES = 3 << 20
"""The largest page in bytes of JSON, so that the page fits into a reply of 4 MiB. Its cursor continues after it."""
SHORT_TEXT = 1_000
"""Characters. Lists shorten longer texts. The reply about a single object contains the full text."""
LONGEST_REASON = 8_000
"""Characters of the reason why an attempt ended. The task and the sandbox log contain the worker's full account."""
DEFAULT_LINES = 200
MOST_LINES = 1_000
"""The largest page of an agent's output."""
MOST_CURSOR_CHARS = 500
MOST_DEPTH = 32
"""Levels of free JSON (metadata, config, parameters). With more levels, a later service could fail at its own limit."""
LONGEST_ANSWER_BYTES = 128 << 10
"""Bytes of an agent's answer to a message. Only the first part of a longer answer is kept, and the answer says so."""
MISSED_HEARTBEATS = 3
"""Heartbeats that may be missed. A sender counts as silent after a TTL of this many intervals (architecture §7)."""
MOST_GAUGES = 1_000
"""The most numbers in one report of an agent's metrics."""

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
"""A number that only grows. JSON readers and a `bigint` of PostgreSQL can represent every value exactly."""
Launch = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""The number of a launch: an `integer` of PostgreSQL."""
Epoch = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""The fencing number of an attempt: an `integer` of PostgreSQL."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
GaugeName = Annotated[str, msgspec.Meta(max_length=255)]
Gauge = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
"""A number of an agent's metrics. The bounds leave out infinity and NaN, which JSON and `jsonb` cannot hold."""
Gauges = Annotated[dict[GaugeName, Gauge], msgspec.Meta(max_length=MOST_GAUGES)]
