"""Stores the sandbox logs and the fences, and watches the size of the streams."""
