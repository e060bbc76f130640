"""Decides: folds the event log, finds trouble, steers."""
