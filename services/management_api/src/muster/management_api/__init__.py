"""The HTTP door for people and scripts."""
