"""The rules of model calls, without I/O: allowed names, requests, markers, scripts and refusals."""
