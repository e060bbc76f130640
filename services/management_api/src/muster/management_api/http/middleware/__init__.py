"""ASGI middleware around every request; each module is one."""
