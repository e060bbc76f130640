"""Sandboxes: records, tokens, lifecycle, commands inside, and the loop that reconciles them."""
