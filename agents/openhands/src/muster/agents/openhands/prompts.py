"""Writes the first message of a conversation from the task, with the template `prompt.md` of this package."""

from datetime import timedelta
from importlib.resources import files

from muster.common.contracts.worker_api import Handoff

TEMPLATE = "prompt.md"


def first_message(handoff: Handoff) -> str:
    """Return the message that gives the agent its task, limits, and the result of the attempt before this one."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - no HTML
    )
    template = environment.from_string((files(__package__ or __name__) / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(task=handoff, time_limit=timedelta(seconds=handoff.time_limit_s)).strip()
