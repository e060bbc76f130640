"""Stores the messages to agents, and notifies the requests that wait for one."""
