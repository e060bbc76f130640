"""Implements `muster demo`, which runs three coding tasks on a temporary stack and verifies each result."""
