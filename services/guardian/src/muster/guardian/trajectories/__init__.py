"""Trajectories: the frames of a sandbox log, folded into state and decisions."""
