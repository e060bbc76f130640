"""Providers, which make sandboxes: the interface of a provider, the table of providers, and one folder for each."""
