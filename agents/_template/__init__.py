"""An agent that answers each message with the text of the message."""
