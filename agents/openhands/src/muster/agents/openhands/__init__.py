"""The coding agent: runs an OpenHands conversation in Muster's worker process."""
