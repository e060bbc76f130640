"""Model calls from sandboxes: checked, passed to a model provider, and metered."""
