"""The echo agent: answers messages with their text, and plays scripted tasks in milliseconds."""
