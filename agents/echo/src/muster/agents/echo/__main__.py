"""Starts the echo agent as `python -m muster.agents.echo --handoff PATH`; the file PATH contains settings or a task."""

import sys

from muster.agent.entry import run_agent
from muster.agents.echo.agent import EchoAgent

if __name__ == "__main__":
    sys.exit(run_agent(EchoAgent))
