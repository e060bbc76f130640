"""Level-based loops: what should be, brought about."""
