"""`muster` and `python -m muster.cli`."""

import sys


def main() -> None:
    """The entry point."""
    try:
        from muster.cli.app import muster

        muster.main(prog_name="muster")
    except KeyboardInterrupt:  # before there was a command
        sys.exit(130)


if __name__ == "__main__":
    main()
