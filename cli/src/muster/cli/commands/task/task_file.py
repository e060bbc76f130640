"""Reads tasks from a YAML or JSON file for `muster task submit -f`.

Each YAML document is one task with the fields of `NewTask`. Two things are easier in a file than in the API. `repo` may
be a folder or an address, as for `--repo`. A document may have a `name`, which `depends_on` of another document uses in
place of an id:
```
name: parser
objective: Write the parser
---
objective: Write the tests of the parser
depends_on: [parser]
```
"""

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec

from muster.cli.commands.task.repository import repository_url
from muster.cli.console.output import Exit, fail
from muster.common.contracts.task_bodies import NewRepo, NewTask
from muster.common.validation_errors import field_error

NAME = "name"
"""The field of a document that names the task within its file; no field of `NewTask`."""
_MERGED = ("labels", "env")
"""Fields to which an option adds entries. Every other option replaces the field of the file."""


class TaskFile:
    """The tasks of one file. `tasks` are ordered so that each task follows the tasks of the file that it depends on."""

    def __init__(self, tasks: Sequence[NewTask], names: Sequence[str | None]) -> None:
        self.tasks, self.names = tasks, names


def read_task_file(path: str, options: Mapping[str, Any]) -> TaskFile:
    """Read the tasks of a file, or of stdin for `-`; a field in `options` takes precedence over the file's field.

    Ends the command, with the file, the task and the field, if the file is not valid.
    """
    documents = _documents(path)
    path = "stdin" if path == "-" else path
    if "objective" in options and len(documents) > 1:
        fail(f"{path} has {len(documents)} tasks: omit OBJECTIVE, or give a file with one task", Exit.USAGE)
    tasks: list[NewTask] = []
    names: list[str | None] = []
    for number, document in enumerate(documents, 1):
        where = f"{path}, task {number}" if len(documents) > 1 else path
        fields = dict(document)
        name: object = fields.pop(NAME, None)
        if name is not None and (not isinstance(name, str) or not name or name in names):
            fail(f"{where}: name must be a text that no other task of the file has, not {name!r}", Exit.USAGE)
        names.append(name)
        tasks.append(_task(fields, options, where))
    return _ordered(tasks, names, path)


def _documents(path: str) -> list[dict[str, Any]]:
    import yaml

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        loaded: list[object] = [one for one in yaml.safe_load_all(text) if one is not None]
    except OSError as error:
        fail(f"-f: the file {path} cannot be read: {error.strerror}", Exit.USAGE)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"-f: {path} is neither YAML nor JSON: {error}", Exit.USAGE)
    if not loaded:
        fail(f"-f: {path} contains no task", Exit.USAGE)
    for one in loaded:
        if not isinstance(one, dict) or not all(isinstance(key, str) for key in cast("dict[object, object]", one)):
            fail(f"-f: each task in {path} must be an object with the fields of a task", Exit.USAGE)
    return cast("list[dict[str, Any]]", loaded)


def _task(fields: dict[str, Any], options: Mapping[str, Any], where: str) -> NewTask:
    for field in fields:
        if field not in NewTask.__struct_fields__:
            _refuse_unknown(field, where)
    for field in _MERGED:
        if isinstance(fields.get(field), dict) and field in options:
            options = {**options, field: fields[field] | options[field]}
    if isinstance(priority := fields.get("priority"), str):
        fields["priority"] = priority.upper()
    fields |= msgspec.to_builtins(options)
    if isinstance(repo := fields.get("repo"), str):
        fields["repo"] = {"url": repo}
    try:
        task = msgspec.convert(fields, NewTask)
    except msgspec.ValidationError as error:
        fail(f"{where}: {field_error(error, NewTask).text}", Exit.USAGE)
    if task.repo is None:
        return task
    return msgspec.structs.replace(task, repo=NewRepo(url=repository_url(task.repo.url), ref=task.repo.ref))


def _refuse_unknown(field: str, where: str) -> NoReturn:
    known = (*NewTask.__struct_fields__, NAME)
    similar = difflib.get_close_matches(field, known, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"the fields are {', '.join(known)}"
    fail(f"{where}: there is no field {field}; {hint}", Exit.USAGE)


def _ordered(tasks: Sequence[NewTask], names: Sequence[str | None], path: str) -> TaskFile:
    from graphlib import CycleError, TopologicalSorter

    index = {name: number for number, name in enumerate(names) if name is not None}
    graph = {number: _inside(task.depends_on, index) for number, task in enumerate(tasks)}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle: list[int] = error.args[1]
        around = " → ".join(names[number] or "" for number in cycle)
        fail(f"{path}: these tasks depend on each other: {around}", Exit.USAGE)
    return TaskFile([tasks[number] for number in order], [names[number] for number in order])


def _inside(depends_on: Iterable[str], index: Mapping[str, int]) -> list[int]:
    return [index[name] for name in depends_on if name in index]
