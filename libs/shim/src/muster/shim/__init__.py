"""A small process that starts, isolates and keeps local workers."""
