"""The guardian: folds the logs of sandboxes into trajectories, finds trouble, steers agents, and notices silence."""
