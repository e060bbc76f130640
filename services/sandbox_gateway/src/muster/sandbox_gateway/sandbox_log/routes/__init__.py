"""The HTTP endpoints that append to the sandbox logs: those of workers, and the webhooks of OpenHands."""
