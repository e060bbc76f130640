"""The fold that derives a trajectory from a sandbox log: events, steps, normalised text and state. Performs no I/O."""
