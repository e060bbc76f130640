"""The subcommands of `muster auth`."""
