"""Agents: packages, the registry, lifecycle, processes, heartbeats and output."""
