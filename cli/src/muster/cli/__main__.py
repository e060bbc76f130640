"""Entry point of `muster` and of `python -m muster.cli`."""

import sys


def main() -> None:
    """Run the command line; exit with 130 if Ctrl-C arrives before a command has started."""
    try:
        from muster.cli.app import muster

        muster.main(prog_name="muster")
    except KeyboardInterrupt:
        # Ctrl-C arrived during the import above. After the import, `RootGroup` handles Ctrl-C.
        sys.exit(130)


if __name__ == "__main__":
    main()
