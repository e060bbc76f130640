"""`python -m muster.shim --socket PATH --state DIR`: answers on its socket, prints nothing."""

import sys

from muster.shim.service import arguments, main

if __name__ == "__main__":
    sys.exit(main(arguments()))
