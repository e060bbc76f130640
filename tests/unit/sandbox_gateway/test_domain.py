"""Tokens, scripts, markers, posts, repositories and the next step of a sandbox."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.common.contracts.doors import PostEvents
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.sandbox_log import FrameHead, FrameKind
from muster.common.contracts.task_spec import Repo, spec_fields
from muster.common.faults import Conflict, Fault, InvalidMessage, TooLarge, Unauthenticated
from muster.sandbox_gateway.models.domain.markers import markers
from muster.sandbox_gateway.models.domain.script import Script, choose
from muster.sandbox_gateway.providers.interface import WorkerProcess
from muster.sandbox_gateway.providers.local.repositories import AllowedRepositories
from muster.sandbox_gateway.sandbox_log.domain.posts import checked_bodies, events_post
from muster.sandbox_gateway.sandboxes.domain.handoff import handoff
from muster.sandbox_gateway.sandboxes.domain.lifecycle import MOVES, NextAction, SandboxRecord, next_action
from muster.sandbox_gateway.sandboxes.domain.tokens import Keyring, SandboxClaims, redacted

AT = datetime(2026, 11, 21, tzinfo=UTC)
CLAIMS = SandboxClaims(sbx="sbx_1", tsk="tsk_1", agt="agt_1", epoch=1, exp=int(AT.timestamp()), model="m")
OLD, NEW = (f"{kid}:{secrets.token_hex(64)}" for kid in ("old", "new"))


def test_a_token_that_a_worker_wrote_is_told_to_nobody() -> None:
    token = Keyring.parsed(NEW).sign(CLAIMS)
    assert redacted(f"401 for {token}, eyJ is no token") == "401 for [token], eyJ is no token"


def test_a_token_outlives_the_replacement_of_its_key() -> None:
    token = Keyring.parsed(OLD).sign(CLAIMS)
    both = Keyring.parsed(f"{NEW},{OLD}")
    assert both.verify(token) == CLAIMS
    assert jwt.get_unverified_header(both.sign(CLAIMS))["kid"] == "new"
    with pytest.raises(Unauthenticated):
        Keyring.parsed(NEW).verify(token)


def test_an_expired_token_is_known_and_says_so() -> None:
    ring = Keyring.parsed(NEW)
    claims = ring.verify(ring.sign(CLAIMS))
    assert claims.expired(AT)
    assert not claims.expired(AT - timedelta(seconds=1))


def test_no_other_token_is_accepted() -> None:
    ring = Keyring.parsed(NEW)
    good = ring.sign(CLAIMS)
    key = bytes.fromhex(NEW.partition(":")[2])
    payload = msgspec.structs.asdict(CLAIMS)
    forged = [
        good[:-2],
        good + "x",
        "",
        "a.b.c",
        jwt.encode(payload, key, algorithm="HS256"),
        jwt.encode(payload, key, algorithm="HS256", headers={"kid": "nobody"}),
        jwt.encode(payload, b"k" * 64, algorithm="HS256", headers={"kid": "new"}),
        jwt.encode(payload, key, algorithm="HS512", headers={"kid": "new"}),
        jwt.encode(payload, "", algorithm="none", headers={"kid": "new"}),
        jwt.encode(payload | {"epoch": "1"}, key, algorithm="HS256", headers={"kid": "new"}),
        jwt.encode({"sbx": "sbx_1"}, key, algorithm="HS256", headers={"kid": "new"}),
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            ring.verify(token)


@pytest.mark.parametrize("text", ["", "k1", "k1:zz", "k1:abcd", f":{'a' * 64}"])
def test_a_bad_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        Keyring.parsed(text)
    assert "a" * 64 not in str(refusal.value)


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


def test_a_script_goes_by_what_it_was_sent() -> None:
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


def post(**event: Any) -> bytes:
    whole: dict[str, Any] = {
        "seq": 1,
        "event_id": "e",
        "kind": "k",
        "at": "2026-11-21T00:00:00Z",
        "source": "agent",
        "body": {},
    }
    return json.dumps({"epoch": 1, "events": [whole, whole | {"seq": 2} | event]}).encode()


def checked(body: bytes) -> PostEvents:
    post = events_post(body)
    for _ in checked_bodies(post.events):
        continue
    return post


def nested(levels: int) -> bytes:
    return post(body="HERE").replace(b'"HERE"', b'{"a":' * (levels - 1) + b'["]]"]' + b"}" * (levels - 1))


def test_a_wide_body_is_not_a_deep_one() -> None:
    assert len(checked(nested(200)).events) == 2
    wide = [{"a": ["[[[{{{", '\\"[{']}] * 1000 + ["[" * 1000]
    assert len(checked(post(body=wide)).events) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"[]", "$"),
        (b'{"epoch":1,"events":[],"x":"\xff"}', "$"),
        (b'{"epoch":"1"}', "$.epoch"),
        (post(seq="2"), "$.events[1].seq"),
        (post(seq=3), "$.events[1].seq"),
        (post(seq=1), "$.events[1].seq"),
        (post(at="yesterday"), "$.events[1].at"),
        (post(at="2026-11-21T00:00:00"), "$.events[1].at"),
        (post(kind=None), "$.events[1].kind"),
        (post(kind="k" * 300), "$.events[1]"),
        (post(body="\ud800"), "$"),
        (
            b'{"epoch":1,"events":[{"seq":0,"event_id":"e","kind":"k","at":"2026-11-21T00:00:00Z","source":"a"}]}',
            "$.events[0].seq",
        ),
        (b'{"epoch":1,"gap":{"from_seq":3,"to_seq":1,"why":""}}', "$.gap.from_seq"),
        (b'{"epoch":1,"gap":{"from_seq":1,"to_seq":1e30,"why":""}}', "$.gap.to_seq"),
        (b'{"epoch":1,"x":' + b"[" * 100_000, "$"),
        (b'{"epoch":1,"x":[{"a":' + b"[" * 100_000, "$"),
        (nested(201), "$.events[1].body"),
        (nested(1500), "$.events[1].body"),
        (b'{"epoch":1,"events":[' + b"[" * 100_000, "$.events[0]"),
        (b'{"epoch":1,"events":[1,{"body":' + b"[" * 100_000, "$.events[0]"),
    ],
)
def test_a_bad_post_is_refused_by_the_name_of_its_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        checked(body)
    assert refusal.value.field == field


def test_an_event_body_over_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge) as refusal:
        checked(post(body="x" * (600 << 10)))
    assert refusal.value.field == "$.events[1].body"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["epoch", "events", "seq", "gap", "at", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_posted_is_decoded_or_refused(body: bytes) -> None:
    refusal: Fault | None = None
    try:
        encode(checked(body))
    except Fault as fault:
        refusal = fault
    assert refusal is None or (refusal.status in (413, 422) and refusal.field)


def test_only_repositories_below_a_root_or_with_a_network_may_be_cloned(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "repo a" / ".git").mkdir(parents=True)
    (root / "bare" / "objects").mkdir(parents=True)
    (root / "bare" / "HEAD").touch()
    (root / "folder").mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    closed, open_ = AllowedRepositories([root], network="none"), AllowedRepositories([root], network="host")
    url = (root / "repo a").as_uri()
    assert closed.resolve(Repo(url=url, ref="main")).path == (root / "repo a").resolve()
    assert closed.resolve(Repo(url=(root / "bare").as_uri())).path == (root / "bare").resolve()
    assert open_.resolve(Repo(url="https://git.invalid/a.git")).path is None
    assert open_.resolve(Repo(url="ssh://git@git.invalid/a.git")).path is None
    refused = [
        *(
            (closed, "https://git.invalid/a.git", None),
            (closed, outside.as_uri(), None),
            (closed, f"{root.as_uri()}/../outside", None),
        ),
        *(
            (closed, (root / "link").as_uri(), None),
            (closed, (root / "none").as_uri(), None),
            (closed, "file://else/x", None),
            (closed, f"{root.as_uri()}/{'a' * 300}", None),
        ),
        *((closed, (root / "folder").as_uri(), None), (open_, "https://git.invalid:99999/a", None)),
        *((open_, "https://git.invalid/a b", None), (open_, "https://[git/a", None), (open_, "git.invalid/a", None)),
        *((open_, "ext::sh -c x", None), (open_, "--upload-pack=x", None), (open_, "ssh://-oProxy/x", None)),
        *((open_, "https://me:pw@git.invalid/a", None), (open_, url, "--force"), (open_, url, "")),
    ]
    for repos, asked, ref in refused:
        with pytest.raises(InvalidMessage) as refusal:
            repos.resolve(Repo(url=asked, ref=ref))
        assert refusal.value.field == ("$.repo.ref" if ref is not None else "$.repo.url")


CREATE = CreateSandbox(
    sandbox_id="sbx_1",
    task_id="tsk_1",
    agent_id="agt_1",
    epoch=1,
    conversation_id="c",
    package="echo",
    model="m",
    objective="o",
)
RUNS, ENDED = WorkerProcess(running=True, pid=1), WorkerProcess(running=False, pid=1, exit_code=9)
FAILED = WorkerProcess(running=False, exit_code=127, error="no such file")


def tail(kind: FrameKind) -> FrameHead:
    return FrameHead(sandbox_id="sbx_1", task_id="tsk_1", agent_id="agt_1", epoch=1, kind=kind, first=1, next=1, at=AT)


OPEN, FINISHED, FENCED = tail(FrameKind.OPENED), tail(FrameKind.FINISHED), tail(FrameKind.FENCED)


@pytest.mark.parametrize(
    ("state", "wanted", "process", "last", "overdue", "step"),
    [
        ("creating", "running", None, None, False, NextAction.START),
        ("creating", "running", None, OPEN, False, NextAction.START),
        ("creating", "running", None, FENCED, False, NextAction.DISCARD),
        ("creating", "running", None, FINISHED, False, NextAction.SETTLE),
        ("creating", "running", RUNS, OPEN, False, NextAction.ADOPT),
        ("creating", "running", RUNS, FENCED, False, NextAction.ADOPT),
        ("creating", "running", FAILED, OPEN, False, NextAction.REPORT),
        ("creating", "stopped", None, None, False, NextAction.STOP),
        ("running", "running", RUNS, None, False, NextAction.REST),
        ("running", "running", RUNS, None, True, NextAction.STOP),
        ("running", "running", ENDED, OPEN, False, NextAction.REPORT),
        ("running", "running", None, OPEN, False, NextAction.REPORT),
        ("running", "running", ENDED, FINISHED, False, NextAction.SETTLE),
        ("running", "running", ENDED, FENCED, False, NextAction.SETTLE),
        ("stopping", "stopped", RUNS, OPEN, False, NextAction.STOP),
        ("stopping", "stopped", None, OPEN, False, NextAction.STOP),
        ("stopped", "stopped", ENDED, OPEN, False, NextAction.REST),
        ("stopped", "stopped", RUNS, OPEN, False, NextAction.STOP),
        ("lost", "running", None, OPEN, False, NextAction.REST),
        ("lost", "deleted", None, OPEN, False, NextAction.DELETE),
        ("running", "deleted", RUNS, OPEN, False, NextAction.DELETE),
        ("deleted", "deleted", None, None, False, NextAction.REST),
    ],
)
def test_the_next_step_follows_from_the_facts(
    state: Any, wanted: Any, process: WorkerProcess | None, last: FrameHead | None, overdue: bool, step: NextAction
) -> None:
    record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, state=state, wanted=wanted)
    assert next_action(record, process, last, overdue=overdue) is step


def test_a_sandbox_that_could_not_be_started_is_reported_and_not_tried_for_ever() -> None:
    record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, error="no such directory")
    assert next_action(record, None, OPEN, overdue=False) is NextAction.REPORT


def test_only_moves_in_the_table_can_be_stored() -> None:
    for state, allowed in MOVES.items():
        record = SandboxRecord(create=CREATE, host="h", provider="local", created_at=AT, state=state)
        for other in MOVES:
            if other == state or other in allowed:
                assert record.moved(other).state == other
            else:
                with pytest.raises(Conflict):
                    record.moved(other)


def test_the_handoff_carries_every_field_of_the_task_and_the_copy_of_its_repository() -> None:
    asked = CreateSandbox(
        sandbox_id="sbx_1",
        task_id="tsk_1",
        agent_id="agt_1",
        epoch=1,
        conversation_id="cnv_1",
        package="echo",
        model="m",
        objective="do it",
        repo=Repo(url="file:///srv/origin", ref="v1"),
        env={"LANG": "C"},
        task_type="unit_test",
    )
    told = handoff(
        asked,
        token="t",
        gateway_url="http://gateway",
        gateway_socket=None,
        workspace="/w",
        state_dir="/s",
        repo_url="file:///copy",
        beat_running_s=5,
        beat_idle_s=10,
        model_deadline_s=60,
    )
    assert spec_fields(told) == spec_fields(asked, repo=Repo(url="file:///copy", ref="v1"))
