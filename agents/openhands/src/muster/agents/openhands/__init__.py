"""The coding agent: an OpenHands conversation on Muster's worker."""
