"""Runs the shim: `python -m muster.shim --socket PATH --state DIR`. Only errors are printed."""

import sys

from muster.shim.service import arguments, main

if __name__ == "__main__":
    sys.exit(main(arguments()))
