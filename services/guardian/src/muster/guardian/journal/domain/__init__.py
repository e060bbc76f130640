"""The records of the guardian's log, the refold, and the reports. Without I/O."""
