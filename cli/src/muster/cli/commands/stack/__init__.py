"""`muster up | down | status`: the stack on this machine."""
