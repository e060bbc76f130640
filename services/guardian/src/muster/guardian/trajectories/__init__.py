"""Trajectories: the frames of sandbox logs, folded into state and decisions."""
