"""The rules of model calls, without I/O: allowed model names, request fields, message markers, scripts and refusals."""
