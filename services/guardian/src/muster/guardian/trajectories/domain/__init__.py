"""The fold of a trajectory, without I/O: agent events, steps, normalised text, and the trajectory itself."""
