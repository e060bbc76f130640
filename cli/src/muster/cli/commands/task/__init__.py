"""Implements the commands of `muster task`: submits, shows, follows, steers and cancels tasks."""
