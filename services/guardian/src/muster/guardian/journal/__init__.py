"""The guardian's own log: its records, its reports, and folding it again."""
