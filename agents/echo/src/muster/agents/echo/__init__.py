"""The echo agent, which answers a message with the message's text and plays scripted tasks in milliseconds."""
