"""The terminal: output, tables, prompts and parameters."""
