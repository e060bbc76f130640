"""The guardian's log: its records, the reports made from them, and the replay of records after a crash."""
