"""The records of the guardian's log, the replay of these records, and reports. Performs no I/O."""
