"""Pure decisions of the feature `trajectories`."""
