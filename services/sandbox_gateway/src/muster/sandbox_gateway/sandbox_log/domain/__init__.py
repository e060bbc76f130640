"""The rules of sandbox logs, without I/O: checks of requests, decisions on appends, and verification of whole logs."""
