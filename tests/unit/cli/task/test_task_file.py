"""The tasks of `muster task submit -f`."""

from pathlib import Path
from typing import Any

import pytest

from muster.cli.commands.task.task_file import TaskFile, read_task_file
from muster.common.contracts.task_bodies import NewRepo, NewTask


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "task.yaml"


def read(file: Path, text: str, **options: Any) -> TaskFile:
    file.write_text(text)
    return read_task_file(str(file), options)


def refusal(file: Path, capsys: pytest.CaptureFixture[str], text: str, **options: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        read(file, text, **options)
    assert ended.value.code == 2
    return capsys.readouterr().err.replace(str(file), "FILE")


def test_fields_of_a_task_are_read_from_yaml_and_json(file: Path):
    yaml = read(file, "objective: fix\npriority: high\nrepo: git@git.invalid:a/b\npaths: ['src/**']\n")
    json = read(
        file,
        '{"objective": "fix", "priority": "HIGH", "repo": {"url": "ssh://git@git.invalid/a/b"}, "paths": ["src/**"]}',
    )

    assert list(yaml.tasks) == list(json.tasks)
    assert yaml.tasks[0] == NewTask(
        objective="fix", priority="HIGH", repo=NewRepo(url="ssh://git@git.invalid/a/b"), paths=["src/**"]
    )


def test_option_overrides_the_file_and_adds_to_labels(file: Path):
    text = "objective: fix\ntimeout_s: 5\nlabels: {a: '1', b: '2'}\nrepo: https://git.invalid/a\n"
    (task,) = read(
        file, text, objective="other", timeout_s=7.0, labels={"b": "3"}, repo=NewRepo(url="https://git.invalid/b")
    ).tasks

    assert (task.objective, task.timeout_s, task.labels) == ("other", 7, {"a": "1", "b": "3"})
    assert task.repo == NewRepo(url="https://git.invalid/b")


def test_tasks_of_a_file_follow_the_tasks_that_they_depend_on(file: Path):
    text = (
        "name: last\nobjective: c\ndepends_on: [middle, tsk_other]\n---\nname: middle\nobjective: b\n"
        "depends_on: [first]\n---\nname: first\nobjective: a\n---\n"
    )
    read_file = read(file, text)

    assert list(read_file.names) == ["first", "middle", "last"]
    assert [task.objective for task in read_file.tasks] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("objetive: x", "FILE: there is no field objetive; did you mean objective?"),
        ("objective: x\nzzz: 1", "FILE: there is no field zzz; the fields are objective, repo,"),
        ("objective: x\ntimeout_s: long", "FILE: timeout_s must be a number"),
        ("objective: x\n---\ntest_command: y", "FILE, task 2: objective is missing"),
        ("objective: x\nrepo: {url: https://a/b, branch: main}", "FILE: there is no field repo.branch"),
        ("objective: x\npriority: now", "FILE: priority must be one of CRITICAL"),
        ("name: a\nobjective: x\n---\nname: a\nobjective: y", "FILE, task 2: name must be a text that no other task"),
        (
            "name: a\nobjective: x\ndepends_on: [b]\n---\nname: b\nobjective: y\ndepends_on: [a]",
            "depend on each other: ",
        ),
        ("[1]", "-f: each task in FILE must be an object"),
        ("", "-f: FILE contains no task"),
        ("a: [", "-f: FILE is neither YAML nor JSON"),
    ],
)
def test_wrong_file_is_refused_with_the_task_and_the_field(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
):
    assert said in refusal(file, capsys, text)


def test_objective_of_the_command_line_needs_a_file_with_one_task(file: Path, capsys: pytest.CaptureFixture[str]):
    assert "has 2 tasks" in refusal(file, capsys, "test_command: x\n---\ntest_command: y\n", objective="z")


def test_missing_file_is_named(file: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read_task_file(str(file), {})

    assert f"{file} cannot be read: No such file" in capsys.readouterr().err
