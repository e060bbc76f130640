"""Commands that start, stop and show the stack on this machine."""
