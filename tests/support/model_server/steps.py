"""Steps of a scripted coding agent. A step is data: it may contain placeholders, which the prompt of the task fills."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TEST = (
    r"(?:succeeds in \S+:\s+|(?:tests? run with|[Tt]est command(?: is)?|[Rr]un the tests? with):? *)"
    r"`?([^`\n]+?)`?\.? *(?:\n|$)"
)
CAPTURES = {
    "workspace": (r"(?:Workspace: |You work in )(/\S+?)(?=[.,]?(?:\s|$))", "."),
    "test": (_TEST, ""),
}
"""For each placeholder the pattern that finds its value in the prompt, and the value if the pattern finds nothing."""
UNTOLD_TEST = "python3 -m unittest -q"
"""The test command of the demo repository, for a prompt that names none."""


@dataclass(frozen=True)
class ToolCall:
    """A call of one tool. `say` is the text beside the call."""

    tool: str
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    say: str = ""


@dataclass(frozen=True)
class Text:
    """A plain message without a tool call."""

    say: str


Step = ToolCall | Text

BUGFIX: Sequence[Step] = (
    ToolCall("terminal", {"command": "cd {workspace} && ls && cat splitbill.py"}, "I look at the repository."),
    ToolCall(
        "file_editor",
        {
            "command": "str_replace",
            "path": "{workspace}/splitbill.py",
            "old_str": "    return [total // people] * people",
            "new_str": ("    each, odd = divmod(total, people)\n    return [each + 1] * odd + [each] * (people - odd)"),
        },
        "Floor division drops the remainder. The first people should pay it.",
    ),
    ToolCall("terminal", {"command": "cd {workspace} && {test}"}, "I run the tests."),
    ToolCall("finish", {"message": "shares() now gives the remaining cents to the first people; all tests pass."}),
)
"""Repairs the demo repository `bugfix`."""


def values_in(prompt: str) -> dict[str, str]:
    """Return the value of each placeholder. The test command is `UNTOLD_TEST` if the prompt names none."""
    found = {
        name: match[1] if (match := re.search(pattern, prompt)) else default
        for name, (pattern, default) in CAPTURES.items()
    }
    return {**found, "test": found["test"] or UNTOLD_TEST}


def filled(step: Step, values: Mapping[str, str]) -> Step:
    """Return the step with the values in place of `{workspace}` and `{test}`."""
    if isinstance(step, Text):
        return Text(_fill(step.say, values))
    return ToolCall(step.tool, {name: _fill(value, values) for name, value in step.args.items()}, step.say)


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    # `str.format` would fail on the braces of source code.
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), value)
