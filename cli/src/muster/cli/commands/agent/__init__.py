"""`muster agent`: one module for each kind of subcommand."""
