"""Starts the OpenHands agent as `python -m muster.agents.openhands --handoff PATH`; the file PATH contains the task."""

import sys

from muster.agent.entry import run_agent
from muster.agents.openhands.agent import OpenHandsAgent

if __name__ == "__main__":
    sys.exit(run_agent(OpenHandsAgent))
