"""Reads thoughts, commands and outputs from the bodies of an agent's events.

The bodies have the format of OpenHands' events, which the echo agent uses too. The format may change, and an agent may
write any JSON, so unknown and missing fields are ignored.
"""

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from muster.common.contracts.feed import FeedEvent
from muster.common.terminal import without_colours

Body = Mapping[str, Any]
_DEPTH = 6
_PATH_ENDS = " \t\n'\"`()=:,"
"""Characters that are taken for the end of a path in a command or an output."""


def event_body(event: FeedEvent) -> Body:
    """Return the body of an event; an empty mapping if the body is not a JSON object."""
    try:
        body: object = msgspec.json.decode(event.body or b"null")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return _mapping(body)


def text_of(value: object, depth: int = _DEPTH) -> str:
    """Return the text of a value that is a string, a list of parts, or an object with the field `text` or `content`.

    Values that are nested in more than `depth` others have no text, because an agent may nest values without end.
    """
    if isinstance(value, str):
        return value
    if not depth:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, (text_of(one, depth - 1) for one in cast("list[object]", value))))
    fields = _mapping(value)
    return text_of(fields.get("text") or fields.get("content"), depth - 1) if fields else ""


def thought(body: Body) -> str:
    """Return the thought that the model wrote with an action, or else its reasoning or the text of a `think` action."""
    action = _mapping(body.get("action"))
    said = (body.get("thought"), body.get("reasoning_content"), action.get("thought"))
    return next(filter(None, (text_of(one).strip() for one in said)), "")


def command(body: Body) -> str:
    """Return an action as a person would write it: `$ pytest -q`, `edit str_replace x.py`, or the tool's name."""
    tool = text_of(body.get("tool_name"))
    action = _mapping(body.get("action"))
    line, path = text_of(action.get("command")), text_of(action.get("path"))
    if path:
        return f"view {path}" if line == "view" else f"edit {line} {path}".replace("  ", " ")
    if "command" in action:
        return f"$ {line}" if line else "(waits for the output of the running command)"
    call = _mapping(body.get("tool_call"))
    return (f"{tool} {text_of(call.get('arguments'))}".strip() if call and not action else tool) or "an action"


def change(body: Body) -> str:
    """Return the text that a file edit removes and adds, with `- ` or `+ ` before each line; usually empty."""
    action = _mapping(body.get("action"))
    removed, added = text_of(action.get("old_str")), text_of(action.get("new_str") or action.get("file_text"))
    return "\n".join([*(f"- {line}" for line in removed.splitlines()), *(f"+ {line}" for line in added.splitlines())])


def output(body: Body) -> str:
    """Return the text of an observation without colours, or the reason of an action that did not run."""
    for name in ("error", "rejection_reason", "detail"):
        if text := text_of(body.get(name)):
            return text
    return without_colours(text_of(_mapping(body.get("observation")).get("content")))


def final_message(body: Body) -> str:
    """Return the message of an action that ends the run; an empty string for any other action."""
    return text_of(_mapping(body.get("action")).get("message"))


def exit_code(body: Body) -> int | None:
    """Return the exit code of an observation; None if the action was not a command, or the command still runs."""
    code: object = _mapping(body.get("observation")).get("exit_code")
    return code if isinstance(code, int) and code >= 0 else None


def message(body: Body) -> str:
    """Return the text of a message in the agent's conversation."""
    return text_of(_mapping(body.get("llm_message")).get("content"))


def relative_paths(text: str, sandbox_id: str | None) -> str:
    """Return a text in which the paths of files in the sandbox's workspace are relative to the workspace."""
    if not sandbox_id or sandbox_id not in text:
        return text
    before, *rest = text.split(f"/{sandbox_id}/workspace")
    relative = [before]
    # Searched from the right in linear time, because an agent may write a very long text without a space.
    for part in rest:
        begin = max(map(relative[-1].rfind, _PATH_ENDS)) + 1
        relative[-1] = relative[-1][:begin]
        inside = part[:1] == "/" and part[1:2] not in ("", *_PATH_ENDS)
        relative.append(part[1:] if inside else "." + part.removeprefix("/"))
    return "".join(relative)


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
