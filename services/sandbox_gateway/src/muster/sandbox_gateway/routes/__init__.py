"""The doors a sandbox may knock at, over HTTP."""
