"""An agent that answers each message with its text."""
