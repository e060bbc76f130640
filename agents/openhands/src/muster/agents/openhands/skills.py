"""Gives the agent the instructions of its repository (AGENTS.md, skills), read by OpenHands' own loader.

What a repository says is a part of the model's prompt, like every other file that the model reads. OpenHands would also
run programs that a repository names: hooks of plugins, and MCP servers of skills. They are left out, so a repository
cannot start a program before the model or the task asks for it.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from muster.agents.openhands.options import Options
from muster.agents.openhands.repository_files import copy_instructions

if TYPE_CHECKING:
    from openhands.sdk import AgentContext
    from openhands.sdk.skills import Skill

logger = logging.getLogger(__name__)


def agent_context(options: Options, workspace: Path, copy: Path) -> "AgentContext":
    """Return the text that is added to the prompts: skills of the repository and the option `system_message_suffix`.

    `copy` is the folder for the copy of the repository's instructions. Without a usable repository, there are none.
    """
    from openhands.sdk import AgentContext

    return AgentContext(
        skills=_skills(workspace, copy) if options.repository_skills else [],
        disabled_skills=options.disabled_skills,
        system_message_suffix=options.system_message_suffix or None,
    )


def _skills(workspace: Path, copy: Path) -> "list[Skill]":
    from openhands.sdk.skills import load_project_skills

    try:
        folder = copy_instructions(workspace, copy)
    except OSError as error:
        logger.warning("repository instructions could not be read", extra={"fields": {"why": str(error)}})
        return []
    if folder is None:
        return []
    folder = folder.resolve()
    try:
        skills = load_project_skills(folder)
    except Exception as error:  # noqa: BLE001 - a repository decides what the loader of OpenHands reads
        logger.warning("repository skills could not be loaded", extra={"fields": {"why": repr(error)}})
        return []
    return [_in_the_workspace(skill, str(folder), str(workspace)) for skill in skills]


def _in_the_workspace(skill: "Skill", copy: str, workspace: str) -> "Skill":
    """Return the skill with the paths of the workspace, where the agent can read and run the files of the skill."""
    source, resources = skill.source, skill.resources
    if source is not None:
        source = source.replace(copy, workspace, 1)
    if resources is not None:
        resources = resources.model_copy(update={"skill_root": resources.skill_root.replace(copy, workspace, 1)})
    return skill.model_copy(update={"source": source, "resources": resources, "mcp_tools": None})
