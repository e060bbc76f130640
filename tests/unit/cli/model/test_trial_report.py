"""The sentence about a failed test of a model says what to do, and the exit code says what kind of failure it is."""

from pathlib import Path
from typing import get_args

import pytest

from muster.cli.commands.model.server_listing import ServerModel
from muster.cli.commands.model.trial_report import cure, exit_of, problem, shown_names
from muster.cli.console.output import Exit
from muster.common.contracts.model_calls import FailureKind
from muster.common.contracts.model_tests import FailedTestCall, ModelTestResult
from muster.common.model_entries import ModelEntry

ENTRY = ModelEntry(kind="vllm", model="m", base_url="http://h:8000/v1", key_file="model-keys/local")
FILE = Path("/no/models.toml")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("unreachable", "running at http://h:8000/v1?"),
        ("timeout", "--timeout"),
        ("key_refused", "muster model add local --replace … --key-stdin"),
        ("unknown_model", "The server has: a, b."),
        ("server_error", "log of the server at http://h:8000/v1"),
        ("unreadable", "/v1"),
    ],
)
def test_failure_of_a_stored_model_names_its_cure(kind: FailureKind, advice: str) -> None:
    failed = FailedTestCall(kind=kind, error="x")
    assert advice in cure(failed, "local", ENTRY, [ServerModel("a"), ServerModel("b")])


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_every_failure_has_a_sentence_and_a_code_that_is_not_success(kind: FailureKind) -> None:
    result = ModelTestResult(model="local", failed=FailedTestCall(kind=kind, error="it broke", status=418))
    for entry in (ENTRY, None):
        text = problem(result, entry, FILE)
        assert f"({kind}, status 418): it broke." in text
        assert "{" not in text
    assert exit_of(result) is not Exit.OK


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("unreachable", Exit.UNREACHABLE),
        ("timeout", Exit.TIMEOUT),
        ("key_refused", Exit.AUTH),
        ("unknown_model", Exit.NOT_FOUND),
        ("server_error", Exit.FAILURE),
    ],
)
def test_exit_code_tells_the_kind_of_failure(kind: FailureKind, code: Exit) -> None:
    assert exit_of(ModelTestResult(model="m", failed=FailedTestCall(kind=kind, error=""))) is code


def test_model_without_tool_calls_cannot_be_used() -> None:
    result = ModelTestResult(model="m", answer="ready", calls_tools=False, tool_error="tools are off")
    assert exit_of(result) is Exit.FAILURE
    assert problem(result, None, FILE).startswith("tools are off. The model answers, but calls no tools")
    assert exit_of(ModelTestResult(model="m", calls_tools=True)) is Exit.OK


def test_long_list_of_models_is_shortened() -> None:
    assert shown_names([ServerModel(f"m{n}") for n in range(20)]).endswith("m11 and 8 more")
