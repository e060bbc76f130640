"""Scripted models, and the markers of steering messages in a model request."""

from typing import Any

import msgspec
import pytest

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.models.domain.script import Script, choose
from muster.sandbox_gateway.models.domain.steering_markers import markers

SCRIPT = msgspec.convert(
    {
        "captures": {"workspace": r"Workspace: (\S+)"},
        "courses": [
            {
                "steps": [
                    {"say": "look", "tool": "terminal", "args": {"command": "ls {workspace} && echo '{other}'"}},
                    {"say": "again", "tool": "terminal", "args": {"command": "pytest"}},
                ]
            },
            {"when": r"muster:", "steps": [{"say": "a"}, {"say": "b"}], "then": "repeat_all"},
        ],
    },
    Script,
)


def said(*roles: str) -> list[dict[str, Any]]:
    texts = {
        "s": ("user", "[muster:m1]\nstop"),
        "u": ("user", "Workspace: /w x"),
        "a": ("assistant", "ok"),
        "t": ("tool", "[muster:m9]"),
    }
    return [{"role": texts[role][0], "content": texts[role][1]} for role in roles]


def test_script_chooses_its_answer_by_the_request() -> None:
    assert choose(SCRIPT, said("u")).step.args == {"command": "ls /w && echo '{other}'"}
    assert choose(SCRIPT, said("u", "a", "t")).step.say == "again"
    assert choose(SCRIPT, said(*"uatatata")).step.say == "again"  # past the end the last step is repeated
    assert choose(SCRIPT, said(*"uatats")).step.say == "a"
    assert choose(SCRIPT, said(*"uatatsa")).step.say == "b"
    assert choose(SCRIPT, said(*"uatatsaa")).step.say == "a"
    assert choose(SCRIPT, said(*"uatatsaa")).number == 4
    with pytest.raises(InvalidMessage):
        choose(Script(branches=SCRIPT.branches[1:]), said("u"))


def test_markers_are_found_at_the_start_of_a_line_of_the_user_only() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "[muster:m2]\nx"}, {"type": "image_url", "image_url": {}}]
    messages: list[dict[str, Any]] = [
        *said("s", "t", "a"),
        {"role": "user", "content": parts},
        {"role": "user", "content": "see [muster:m3]"},
        *said("s"),
    ]
    assert markers(messages) == ["m1", "m2"]
