"""Requests that arrive over HTTP of the feature `health`."""
