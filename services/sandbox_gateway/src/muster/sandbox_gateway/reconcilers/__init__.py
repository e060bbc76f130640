"""Level-based loops: what is wanted against what is."""
