"""Starts the echo agent: `python -m muster.agents.echo --handoff PATH`."""

import sys

from muster.agent.entry import run_agent
from muster.agents.echo.agent import EchoAgent

if __name__ == "__main__":
    sys.exit(run_agent(EchoAgent))
