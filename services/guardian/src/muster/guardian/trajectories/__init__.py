"""Trajectories: the state and the decisions that the guardian derives from the frames of a sandbox's log."""
