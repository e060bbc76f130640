"""Starts the agent: Muster runs `python -m _template --handoff PATH`.

The file PATH contains the settings of the agent or a task.
"""

import sys

from muster.agent.entry import run_agent

from .agent import TemplateAgent

if __name__ == "__main__":
    sys.exit(run_agent(TemplateAgent))
