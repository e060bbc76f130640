"""Time limits and pauses of a client, in seconds."""

DEADLINE_S = 15.0
"""Time limit of one call in seconds, all its tries together."""
LONGEST_DEADLINE_S = 86_400.0
"""Longest allowed time limit of one call in seconds."""
CONNECT_S = 3.0
"""Longest time in seconds to connect, for a response that is read as it arrives."""
SILENCE_S = 45.0
"""Seconds without a byte after which a feed counts as broken; three times the 15 s at which the API writes."""
RECONNECT_S = 0.5
"""Pause in seconds before a feed connects again."""
