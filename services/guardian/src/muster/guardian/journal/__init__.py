"""The guardian's log: its records, the reports made from them, and the refold after a crash."""
