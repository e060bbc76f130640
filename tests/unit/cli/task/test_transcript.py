"""The transcript of a task as `muster task logs` prints it."""

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.console.event_text import event_text
from muster.cli.console.transcript import transcript_entries
from muster.cli.console.transcript_text import FOLDED_HEAD, FOLDED_TAIL, TranscriptText
from muster.common.contracts.feed import FeedEvent
from muster.common.contracts.sandbox_log import ClippedBody
from tests.support.feed_events import MODEL_FAILED, SANDBOX, acted, feed_event, observed, said

EDIT = {
    "tool_name": "file_editor",
    "action": {"command": "str_replace", "path": "/w/x.py", "old_str": "a\nb", "new_str": "c"},
}


def texts(*events: FeedEvent) -> list[str]:
    return [f"{one.kind} {one.text}" for event in events for one in transcript_entries(event, "p")]


def lines(*events: FeedEvent, full: bool = False, columns: int | None = 80) -> list[str]:
    text = TranscriptText(full=full, columns=columns)
    return [line for event in events for entry in transcript_entries(event, "p") for line in text.lines(entry)]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (acted("pytest -q", thought="I look first."), ["thought I look first.", "command $ pytest -q"]),
        (acted(""), ["command (waits for the output of the running command)"]),
        (observed("1 failed", exit_code=1), ["output 1 failed"]),
        (feed_event("ActionEvent", EDIT, seq=1), ["command edit str_replace /w/x.py\n- a\n- b\n+ c"]),
        (
            feed_event("ActionEvent", {"tool_name": "finish", "action": {"message": "Done."}}, seq=1),
            ["message agent: Done."],
        ),
        (feed_event("ObservationEvent", {"tool_name": "finish", "observation": {"content": "Done."}}, seq=1), []),
        (
            feed_event("ActionEvent", {"tool_name": "think", "action": {"thought": "Hm."}}, seq=1),
            ["thought Hm."],
        ),
        (
            feed_event(
                "ActionEvent",
                {"tool_name": "grep", "action": None, "tool_call": {"name": "grep", "arguments": '{"q":1}'}},
                seq=1,
            ),
            ['command grep {"q":1}'],
        ),
        (feed_event("AgentErrorEvent", {"error": "no such tool"}, seq=1), ["error no such tool"]),
        (feed_event("ConversationErrorEvent", {"code": "X", "detail": "it broke"}, seq=1), ["error it broke"]),
        (said("fix it", origin="user"), ["message user: fix it"]),
        (said("look again", sender="muster:msg_1", origin="user"), ["steering the agent received: look again"]),
        (feed_event("SystemPromptEvent", {"system_prompt": "long"}, seq=1), []),
        (feed_event("PauseEvent", {}, seq=1), ["event PauseEvent"]),
        (
            feed_event("opened", {"package": "echo", "model": "m", "isolation": "plain"}),
            ["sandbox started (echo, m, plain)"],
        ),
        (feed_event("finished", {"outcome": "error", "error": "it died"}), ["result error: it died"]),
        (feed_event("gap", {"from_seq": 3, "to_seq": 7, "why": "disk"}), ["sandbox gap: disk"]),
        (
            feed_event("model_failed", MODEL_FAILED),
            ["error the model m failed 2 times in a row (server error 500): CUDA out of memory"],
        ),
        (
            feed_event("connection", {"host": "a.org", "port": 443, "allowed": True, "sent_bytes": 1200}),
            ["sandbox connection a.org:443: 1,200 bytes sent, 0 received"],
        ),
        (
            feed_event("connection", {"host": "b.org", "port": 80, "allowed": False, "reason": "no", "connections": 3}),
            ["sandbox connection refused b.org:80 3 times: no"],
        ),
        (feed_event("connection", {"new": "form"}), ["sandbox connection:"]),
        (feed_event("model_failed", {"error": "of a later release"}), ["sandbox model_failed: of a later release"]),
        (feed_event("closed", {"reason": "x"}), []),
        (feed_event("running", {"error": "of an earlier attempt"}, source="task"), ["task running"]),
        (feed_event("failed", {"error": "E1\nE2"}, source="task"), ["task failed: E1\nE2"]),
        (feed_event("finding", {"summary": "a loop"}, source="guardian"), ["guardian finding: a loop"]),
        (
            feed_event("issued", {"sender": "guardian", "text": "stop"}, source="guardian"),
            ["guardian steering message of guardian: stop"],
        ),
        (feed_event("outcome", {"outcome": "heeded"}, source="guardian"), ["guardian the steering message was heeded"]),
        (feed_event("seen", {}, source="guardian"), []),
    ],
)
def test_event_becomes_the_entries_that_a_person_reads(event: FeedEvent, told: list[str]):
    assert texts(event) == told


def test_each_attempt_has_one_heading():
    second = feed_event("opened", {"package": "echo"}, epoch=2)

    headings = [line for line in lines(acted("a"), observed("b"), second, second) if line.startswith("──")]

    assert [one.split(" ─")[0] for one in headings] == [f"── attempt {number} · {SANDBOX}" for number in (1, 2)]


def test_long_output_is_folded_and_full_shows_every_line():
    output = "\n".join(f"line {number}" for number in range(130))

    folded = [line.strip() for line in lines(observed(output)) if "|" in line]

    assert len(folded) == FOLDED_HEAD + 1 + FOLDED_TAIL
    assert folded[FOLDED_HEAD] == f"| … {130 - FOLDED_HEAD - FOLDED_TAIL} more lines (--full)"
    assert (folded[0], folded[-1]) == ("| line 0", "| line 129")
    assert sum("line" in line for line in lines(observed(output), full=True)) == 130


def test_fold_never_hides_a_single_line():
    output = "\n".join("x" * (FOLDED_HEAD + FOLDED_TAIL + 1))

    assert "more lines" not in "".join(lines(observed(output)))


def test_exit_code_of_a_failed_command_is_shown():
    assert lines(observed("no", exit_code=2))[-1].strip() == "| exit code 2"
    assert "exit code" not in "".join(lines(observed("yes")))


def test_words_are_wrapped_on_a_terminal_and_unchanged_in_a_pipe():
    long = " ".join(["word"] * 40)

    assert max(map(len, lines(acted("ls", thought=long)))) <= 80
    assert f"thought: {long}" in "\n".join(lines(acted("ls", thought=long), columns=None))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["action", "thought"]), inner),
    ),
    st.sampled_from(["ActionEvent", "ObservationEvent", "MessageEvent", "AgentErrorEvent", "x\x1b[2J"]),
)
def test_any_body_has_a_transcript_without_control_characters(body: object, kind: str):
    for line in lines(feed_event(kind, body, seq=1), columns=None):
        assert line.isprintable()


def test_colours_and_overwritten_progress_bars_of_an_output_are_left_out():
    colourful = "\x1b[31m1 failed\x1b[0m\r\n10 %\r20 %\r100 %\n\x1b]0;title\x07end"

    assert texts(observed(colourful)) == ["output 1 failed\n100 %\nend"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"/data/sandboxes/{SANDBOX}/workspace/src/x.py", "cat src/x.py"),
        (f"/data/sandboxes/{SANDBOX}/workspace/.env", "cat .env"),
        (f"/data/sandboxes/{SANDBOX}/workspace", "cat ."),
        (f"/data/sandboxes/{SANDBOX}/workspace/", "cat ."),
        (f"'/data/{SANDBOX}/workspace/a' /data/{SANDBOX}/workspace/b", "cat 'a' b"),
        (f"/data/sandboxes/{SANDBOX}/other", f"cat /data/sandboxes/{SANDBOX}/other"),
    ],
)
def test_paths_are_relative_to_the_workspace_except_in_the_full_transcript(path: str, told: str):
    assert lines(acted(f"cat {path}"), columns=None)[-1].endswith(f"$ {told}")
    assert lines(acted(f"cat {path}"), columns=None, full=True)[-1].endswith(f"$ cat {path}")


def test_delivered_message_is_recognised_by_its_beginning():
    delivered = said("[muster:msg_1] look " + "again " * 40, sender="muster:msg_1", origin="user")

    (line,) = lines(delivered)[2:]

    assert "steering: the agent received: look again" in line
    assert line.endswith("…")
    assert "again " * 39 in " ".join(lines(delivered, full=True, columns=None))


def test_ruled_line_of_an_output_stays_one_line():
    assert [len(line) for line in lines(observed("=" * 200)) if "=" in line] == [80]


@pytest.mark.parametrize(
    ("kind", "told"), [("MessageEvent", "agent: 1.0 MiB"), ("ObservationEvent", "event: ObservationEvent 1.0 MiB")]
)
def test_body_kept_by_reference_is_shown_with_its_size_and_the_command_that_writes_it(kind: str, told: str) -> None:
    body = ClippedBody.of(b"x" * (1 << 20))
    clipped = feed_event(kind, body, seq=7, origin="agent")
    kept = msgspec.structs.replace(clipped, payload=body.sha256, task_id=f"tsk_{'0' * 26}")

    heading, shown, command, digest = lines(kept)[1:]
    assert heading.startswith("── attempt 1")
    assert shown.endswith(told)
    assert max(map(len, [shown, command, digest])) <= 80
    assert f"{command}\n{digest}".replace(" \\\n          ", " ").strip() == (
        f"whole body: muster task payload {kept.task_id} {kept.payload}"
    )
    assert lines(kept, columns=None)[-1].strip() == event_text(kept, io.StringIO()).splitlines()[-1].strip()
    assert lines(clipped)[-1].endswith(told), "a body that was not kept has no command"
