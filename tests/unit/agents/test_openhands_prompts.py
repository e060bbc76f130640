"""The agent is told its task, test command, paths and limits, and at a second attempt what the first one did."""

from typing import Any

import pytest

from muster.agents.openhands.automatic_replies import (
    MOST_CUT,
    TO_A_CUT_ANSWER,
    TO_A_QUESTION,
    AutomaticReplies,
    is_question,
)
from muster.agents.openhands.model_failures import answer_was_cut, result_of_failure, retry_after_s
from muster.agents.openhands.prompts import first_message
from muster.common.contracts.attempts import PreviousAttempt
from muster.common.contracts.sandbox_log import Finished
from muster.common.contracts.task_spec import Repo
from muster.common.contracts.worker_api import Handoff


def handoff(**fields: Any) -> Handoff:
    base: dict[str, Any] = {
        "objective": "Fix the bug.",
        "gateway_url": "http://g",
        "token": "t",
        "sandbox_id": "sbx_1",
        "task_id": "tsk_1",
        "agent_id": "agt_1",
        "epoch": 1,
        "conversation_id": "cnv_1",
        "package": "openhands",
        "model": "local",
        "workspace": "/w",
        "state_dir": "/s",
    }
    return Handoff(**base | fields)


class GatewayError(Exception):
    """An error as the client library raises it for a problem of the gateway."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.response: Any = None
        self.status_code, self.body = status, {"type": f"urn:muster:problem:{code}", "detail": detail}


def failure(error: Exception) -> Any:
    """Return an error as the SDK raises it for a run, which contains the error of the model request."""
    made: Any = RuntimeError("the run failed")
    made.original_exception = error
    return made


def test_message_names_everything_that_the_agent_needs() -> None:
    text = first_message(
        handoff(
            repo=Repo(url="file:///r"),
            test_command="make test",
            paths=["src/**", "docs/*"],
            target_file="src/a.py",
            timeout_s=1_800.0,
            max_steps=40,
            max_tokens=90_000,
        )
    )
    for told in (
        "Fix the bug.",
        "/w",
        "    make test\n",
        "src/**, docs/*",
        "src/a.py",
        "0:30:00",
        "40 steps",
        "90,000",
    ):
        assert told in text
    assert "counts as a failure" in text
    assert "attempt before" not in text


def test_message_leaves_out_what_the_task_does_not_say() -> None:
    text = first_message(handoff(timeout_s=300.0))
    assert "None" not in text
    assert "counts as a failure" not in text
    assert "succeeds" not in text
    assert "\n\n\n" not in text


def test_second_attempt_is_told_the_end_of_the_failed_test() -> None:
    before = PreviousAttempt(epoch=1, ended="exit code 1", summary="I tried", diff="+a", validation="AssertionError")
    text = first_message(handoff(epoch=2, previous=before))
    for told in ("number 1", "exit code 1", "I tried", "+a", "AssertionError"):
        assert told in text


def test_text_of_a_task_is_not_a_template() -> None:
    assert "{{ 7 * 7 }}" in first_message(handoff(objective="{{ 7 * 7 }}"))


@pytest.mark.parametrize(
    ("text", "question"),
    [("Should I fix it?", True), ("Shall I?**\n", True), ("Done.", False), ("Why? Because.", False), ("", False)],
)
def test_message_that_ends_with_a_question_mark_is_a_question(text: str, question: bool) -> None:
    assert is_question(text) == question


def test_question_gets_one_reply_and_then_ends_the_run_as_a_failure() -> None:
    replies = AutomaticReplies(handoff(repo=Repo(url="file:///r")))
    assert replies.to(None, "Should I fix it?") == TO_A_QUESTION
    assert replies.to(None, "Really?") is None
    result = replies.checked(Finished(outcome="success", summary="Really?"))
    assert (result.outcome, result.question) == ("failure", True)


def test_question_that_is_followed_by_the_work_is_no_failure() -> None:
    replies = AutomaticReplies(handoff(repo=Repo(url="file:///r")))
    replies.to(None, "Should I fix it?")
    assert replies.to(None, None) is None
    assert replies.checked(Finished(outcome="success")).outcome == "success"


def test_answer_to_a_task_without_a_change_may_be_a_question() -> None:
    replies = AutomaticReplies(handoff())
    assert replies.to(None, "What is truth?") is None
    assert replies.checked(Finished(outcome="success")).outcome == "success"


def test_cut_answer_is_told_to_the_agent_a_few_times() -> None:
    replies, cut = AutomaticReplies(handoff()), failure(GatewayError(400, "model_answer_cut", "cut"))
    assert answer_was_cut(cut)
    told = [replies.to(cut, None) for _ in range(MOST_CUT + 1)]
    assert told == [*[TO_A_CUT_ANSWER] * MOST_CUT, None]


def test_result_of_a_failed_request_is_the_sentence_of_the_gateway() -> None:
    limit = failure(GatewayError(403, "model_limit_reached", "the limit of 5 model calls"))
    down = failure(GatewayError(400, "model_given_up", "failed 10 times"))
    assert result_of_failure(limit) == Finished(outcome="refused", error="the limit of 5 model calls")
    assert result_of_failure(down) == Finished(outcome="error", error="failed 10 times")


def test_worker_waits_as_long_as_the_gateway_asks() -> None:
    class Response:
        headers = {"retry-after": "7"}

    error, cause = RuntimeError("outer"), GatewayError(429, "model_rate_limited", "slow down")
    error.__cause__ = cause
    assert retry_after_s(error) == 2.0
    cause.response = Response()
    assert retry_after_s(error) == 7.0
    assert retry_after_s(None) == 2.0
