"""Runs the `muster` command with small stand-ins instead of the four services, for tests of the command itself."""

import functools
import os
from dataclasses import replace
from pathlib import Path

from muster.cli.app import muster
from muster.cli.commands.stack import detached
from muster.embedded import config
from muster.embedded.programs import SERVICES

STANDIN = str(Path(__file__).with_name("standin.py"))

if __name__ == "__main__":
    os.environ.setdefault("MUSTER_NOTES", os.environ.get("TMPDIR", "/tmp"))
    standins = tuple(replace(service, arguments=(STANDIN, service.name)) for service in SERVICES)
    config.StackConfig = functools.partial(config.StackConfig, services=standins)  # pyright: ignore[reportAttributeAccessIssue]
    detached.MUSTER = (__file__,)
    muster.main(prog_name="muster")
