"""Answers requests of other programs about models: the test of `muster model test`."""
