"""Implements `muster model`, which stores, lists, tests and removes the models of a stack on this machine."""
