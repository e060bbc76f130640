"""Loops of the feature `fleet`, which start, stop and observe the processes of agents."""
