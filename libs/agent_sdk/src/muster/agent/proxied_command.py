"""Runs a command beside a relay to the gateway's proxy.

The process is `python -m muster.agent.proxied_command --handoff FILE -- COMMAND ARGUMENTS`. The gateway starts commands
of a sandbox in this way, such as the test command of a task. The command inherits stdin, stdout and stderr. This
process ends with the exit code of the command, or with 128 + the number of its signal.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from muster.agent.exit_codes import ExitCode
from muster.agent.proxy_relay import proxy_relay
from muster.common.contract import decode
from muster.common.contracts.worker_api import ProxyHandoff
from muster.common.faults import InvalidMessage

_NOT_FOUND, _SIGNALLED = 127, 128


def run_proxied(argv: Sequence[str]) -> int:
    """Run the command in `argv` and return its exit code."""
    match argv:
        case ["--handoff", path, "--", *command] if command:
            file = Path(path)
        case _:
            raise SystemExit("wrong arguments; start the relay of a command with: --handoff FILE -- COMMAND")
    try:
        body = file.read_bytes()
        file.unlink()  # The token must not stay on the disk while the command runs.
        handoff = decode(body, ProxyHandoff)
    except (OSError, InvalidMessage) as error:
        print(f"the handoff of the command could not be read: {error}", file=sys.stderr)  # noqa: T201 - the output of the command
        return ExitCode.BAD_HANDOFF
    with proxy_relay(handoff.egress_socket, handoff.token):
        try:
            process = subprocess.Popen(command)
        except OSError as error:
            print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201 - as above
            return _NOT_FOUND
        signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
        code = process.wait()
        return code if code >= 0 else _SIGNALLED - code


if __name__ == "__main__":
    sys.exit(run_proxied(sys.argv[1:]))
