"""Answers the requests that sandboxes send to the proxy."""
