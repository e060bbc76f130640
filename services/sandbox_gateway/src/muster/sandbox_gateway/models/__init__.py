"""Model calls of agents in sandboxes: checks the calls, passes them to model providers, and meters their usage."""
