"""Starts the OpenHands agent: `python -m muster.agents.openhands --handoff PATH`."""

import sys

from muster.agent.entry import run_agent
from muster.agents.openhands.agent import OpenHandsAgent

if __name__ == "__main__":
    sys.exit(run_agent(OpenHandsAgent))
