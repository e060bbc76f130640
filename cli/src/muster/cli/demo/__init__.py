"""Implements `muster demo`: three coding tasks on a temporary stack, and the proof that each one was done."""
