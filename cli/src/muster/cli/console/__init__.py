"""Reads the command line's values and prints output, tables and prompts on the terminal."""
