"""Agents: packages, the registry of agents, start and stop, processes, heartbeats and output."""
