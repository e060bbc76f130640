"""Stores the sandbox logs and the fences that end them, and checks the sizes of the streams of these logs."""
