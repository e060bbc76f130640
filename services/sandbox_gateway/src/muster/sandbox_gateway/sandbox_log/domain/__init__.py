"""The rules of the sandbox log, without I/O: checks of requests, the decision on an append, and the verification."""
