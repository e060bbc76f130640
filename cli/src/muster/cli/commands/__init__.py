"""The commands of `muster`, one module or folder for each group."""
