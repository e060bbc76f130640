"""Runs the shim: `python -m muster.shim --socket PATH --state DIR`. Prints only errors."""

import sys

from muster.shim.startup import arguments, main

if __name__ == "__main__":
    sys.exit(main(arguments()))
