"""How much one answer holds: the same for whoever asks, whoever passes it on and whoever answers."""

DEFAULT_PAGE = 50
LARGEST_PAGE = 100
"""Of tasks, agents, events and whatever else is listed."""
DEFAULT_LINES = 200
MOST_LINES = 1_000
"""Of an agent's output."""
MOST_CURSOR_CHARS = 500
MOST_DEPTH = 32
"""Of what is free JSON (metadata, config, parameters): deeper, some service behind would meet its own limit first."""
