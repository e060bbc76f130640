"""Serves a double for a person or another process: `python -m muster.daytona_double --port 3986 --root DIR`."""

import argparse
import signal
import sys
from pathlib import Path

from muster.daytona_double import serving
from muster.daytona_double.double_settings import interpreter_path, new_key
from muster.daytona_double.faults import NAMES, parsed, read_faults


def main() -> None:
    """Serve until SIGINT or SIGTERM, after printing the URL and the key."""
    given = _parser().parse_args()
    options = {
        name: getattr(given, name) for name in ("host", "port", "api_key", "path", "change_s", "list_lag_s", "control")
    }
    double = serving(given.root, **options, seed=given.seed)
    for fault in [*given.fault, *(read_faults(given.faults) if given.faults else ())]:
        double.faults.set(fault)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with double:
        sys.stdout.write(f"DAYTONA_API_URL={double.url}\nDAYTONA_API_KEY={double.key}\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m muster.daytona_double",
        description="Serve a double of Daytona's APIs, which runs commands for real in local directories.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {name:18}{effect}" for name, effect in NAMES.items()),
    )
    parser.add_argument("--root", type=Path, required=True, help="directory of the sandboxes; it is emptied")
    parser.add_argument("--host", default="127.0.0.1", help="listen on this address (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="listen on this port; a free one by default")
    parser.add_argument("--api-key", default=new_key(), metavar="KEY", help="require this key; a new one by default")
    parser.add_argument("--path", default=interpreter_path(), help="PATH of the commands in sandboxes")
    parser.add_argument(
        "--change-s", type=float, default=0.02, metavar="S", help="seconds that a change of state takes"
    )
    parser.add_argument("--list-lag-s", type=float, default=0.0, metavar="S", help="seconds by which lists are late")
    parser.add_argument("--control", action="store_true", help="serve /_double, which sets faults and reads counters")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers of faults")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="read a JSON list of faults from this file")
    parser.add_argument(
        "--fault",
        type=parsed,
        action="append",
        default=[],
        metavar="NAME[=OPTION:VALUE,…]",
        help="put a fault in force, such as rate-limit=times:3,retry_after:1; repeatable",
    )
    return parser


if __name__ == "__main__":
    main()
