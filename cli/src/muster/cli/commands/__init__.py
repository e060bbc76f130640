"""The commands of `muster`; each command group has a module or a folder in this package."""
