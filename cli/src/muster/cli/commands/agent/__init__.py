"""The subcommands of `muster agent`."""
