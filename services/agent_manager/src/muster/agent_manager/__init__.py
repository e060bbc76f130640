"""Acts: queue, dispatch, attempts and their epochs."""
