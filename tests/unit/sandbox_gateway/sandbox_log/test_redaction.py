"""Secrets in workers' requests are replaced by their kind, and nothing else is changed."""

import asyncio
import base64
import hashlib
import json
import string
import time
import uuid
from mmap import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.common.contract import encode
from muster.sandbox_gateway.sandbox_log.adapters import redaction_thread
from muster.sandbox_gateway.sandbox_log.domain.redaction import REFRESH_S, SecretRedactor
from tests.support.cases import cases

ALNUM = (string.ascii_letters + string.digits) * 3
SECRETS = {
    "aws key": "AKIA" + "ABCDEFGH01234567",
    "github token": "ghp_" + ALNUM[:36],
    "gitlab token": "glpat-" + ALNUM[:20],
    "json web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzYngiOiJzYngifQ." + ALNUM[:43],
    "npm token": "npm_" + ALNUM[:36],
    "openai key": "sk-proj-" + ALNUM[:40],
    "anthropic key": "sk-ant-api03-" + ALNUM[:40],
    "google api key": "AIza" + ALNUM[:35],
    "hugging face token": "hf_" + ALNUM[:34],
    "pypi token": "pypi-AgE" + ALNUM[:80],
    "sendgrid key": "SG." + ALNUM[:22] + "." + ALNUM[:43],
    "slack token": "xoxb-" + "123456789012-abcdefABCDEF",
    "stripe key": "sk_live_" + ALNUM[:24],
    "telegram token": "123456789:AA" + ALNUM[:33],
    "twilio key": "SK" + "0123456789abcdef" * 2,
    "mailchimp key": "0123456789abcdef" * 2 + "-us12",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----",
}
PLACES = ("{}", "token: {}\n", "\n{}\n", "a\t{},", '"{}"', '{{"key": "{}"}}', "'{}' and so on", "x={};")
EVIDENCE = (
    "commit " + hashlib.sha1(b"a", usedforsecurity=False).hexdigest(),
    "sha256:" + hashlib.sha256(b"a").hexdigest(),
    "integrity sha512-" + base64.b64encode(hashlib.sha512(b"a").digest()).decode(),
    str(uuid.UUID(int=2**100)),
    "sbx_01jd2q3m4n5p6r7s8t9v0w1x2y msg_01jd2q3m4n5p6r7s8t9v0w1x2y",
    "task-or-somebody-else-that-has-a-long-name",
    "aws_key_test.py at commit 'da39a3ee5e6b4b0d3255bfef95601890afd80709'",
    "https://example.org:8443/a@b and user@example.org, APPLICATION, API_KEY=",
    "password = input('password: ')",
)

AFTER_AN_ESCAPE = {
    "npm": "see\npm_" + ALNUM[:36],
    "aws": "aws key:\n" + "/usr/lib/python3/dist/packages/somefiles"[:39],
    "mailchimp": "x\n" + "a" * 31 + "-us1",
    "mailchimp after a letter": "é" + "a" * 27 + "-us1",
    "stripe": "x\rk_live_" + "a" * 30,
    "ibm": "ibm_key:\n" + "b" * 43,
    "softlayer": "softlayer_key:\n" + "a" * 63,
    "cloudant": "cloudant_key:\n" + "a" * 23 + " ",
}
"""Texts that are no secrets, but whose JSON has the form of a secret that begins with the letter of an escape."""


def redactor(**known: str) -> SecretRedactor:
    return SecretRedactor(lambda: known, lambda: 0.0)


@pytest.mark.parametrize("kind", SECRETS)
def test_secret_is_replaced_by_its_kind_wherever_it_stands(kind: str) -> None:
    for place in PLACES:
        text = place.format(SECRETS[kind])
        stored = json.loads(redactor().redacted(json.dumps({"text": text}).encode()))
        assert stored == {"text": place.format(f"[redacted: {kind}]")}


@pytest.mark.parametrize("text", EVIDENCE)
def test_ids_digests_and_words_stay_as_they_are(text: str) -> None:
    body = json.dumps({"text": text}).encode()
    assert redactor().redacted(body) == body


def test_password_in_a_url_is_replaced_and_its_address_stays() -> None:
    body = json.dumps({"text": "git clone https://ada:hunter22@git.example.org/x.git"}).encode()
    assert json.loads(redactor().redacted(body))["text"] == (
        "git clone https://ada:[redacted: password in a URL]@git.example.org/x.git"
    )


def test_aws_secret_key_is_replaced_only_beside_its_name() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    named = json.dumps({"text": f'export AWS_SECRET_ACCESS_KEY="{secret}"'}).encode()
    assert json.loads(redactor().redacted(named))["text"] == 'export AWS_SECRET_ACCESS_KEY="[redacted: aws secret key]"'
    alone = json.dumps({"text": secret}).encode()
    assert redactor().redacted(alone) is alone


def test_known_secret_is_replaced_exactly_also_with_escaped_slashes() -> None:
    known = redactor(VLLM_API_KEY="swordfish/of+the/deep")
    assert known.redacted(rb'{"a":"swordfish\/of+the\/deep","b":"swordfish"}') == (
        b'{"a":"[redacted: VLLM_API_KEY]","b":"swordfish"}'
    )
    assert known.redacted(b'{"a":"(swordfish/of+the/deep)"}') == b'{"a":"([redacted: VLLM_API_KEY])"}'


def test_changed_known_secrets_are_read_again() -> None:
    now_s, known = [0.0], {"A_KEY": "the-first-secret"}
    changing = SecretRedactor(lambda: dict(known), lambda: now_s[0])
    assert changing.redacted(b"the-first-secret") == b"[redacted: A_KEY]"
    known["B_KEY"] = "the-second-secret"
    now_s[0] += REFRESH_S
    assert changing.redacted(b"the-second-secret") == b"[redacted: B_KEY]"


def test_file_that_is_being_redacted_when_the_known_secrets_change_keeps_the_names_of_its_secrets() -> None:
    now_s, known = [0.0], {"A_KEY": "the-first-secret"}
    changing = SecretRedactor(lambda: dict(known), lambda: now_s[0])
    content = b"the-first-secret and the-first-secret"
    with mmap(-1, len(content)) as body:
        body.write(content)
        begun = changing.pieces(body)
        assert next(begun) == (b"[redacted: A_KEY]", True)
        # Two longer secrets take the first places in the pattern of all secrets.
        known |= {"LONG_KEY": "a-second-secret-that-is-longer", "OTHER_KEY": "a-third-secret-that-is-longer"}
        now_s[0] += REFRESH_S
        assert changing.redacted(b"a-third-secret-that-is-longer") == b"[redacted: OTHER_KEY]"
        assert [piece for piece, is_secret in begun if is_secret] == [b"[redacted: A_KEY]"]


@cases()
@given(
    texts=st.lists(st.text() | st.sampled_from([*SECRETS.values(), "://a:b@", '\\"aws key\\"', "\\n"]), max_size=6),
    nested=st.booleans(),
)
def test_every_redacted_body_is_still_json_of_the_same_shape(texts: list[str], nested: bool) -> None:
    value: object = {"text": "".join(texts), "list": texts}
    body = json.dumps({"inner": json.dumps(value)} if nested else value).encode()
    stored = json.loads(redactor().redacted(body))
    inner = json.loads(stored["inner"]) if nested else stored
    assert isinstance(inner["text"], str)
    assert len(inner["list"]) == len(texts)


@pytest.mark.parametrize("name", AFTER_AN_ESCAPE)
def test_text_after_an_escape_of_json_is_no_secret_because_of_the_letter_of_the_escape(name: str) -> None:
    body = json.dumps({"text": AFTER_AN_ESCAPE[name]}).encode()
    assert redactor().redacted(body) == body


@pytest.mark.parametrize("name", AFTER_AN_ESCAPE)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_json_in_json_stays_json_when_a_secret_seems_to_begin_in_an_escape(name: str, levels: int) -> None:
    body = AFTER_AN_ESCAPE[name]
    for _ in range(levels):
        body = json.dumps([body])
    stored = redactor().redacted(body.encode()).decode()
    for _ in range(levels):
        (stored,) = json.loads(stored)
    assert isinstance(stored, str)


def test_secret_that_begins_with_the_letter_of_an_escape_is_replaced_after_a_backslash() -> None:
    token = "npm_" + ALNUM[:36]
    text = f"C:\\{token} and \n{token} and {token}"
    stored = json.loads(redactor().redacted(json.dumps({"text": text}).encode()))["text"]
    assert stored == "C:\\n[redacted: npm token] and \n[redacted: npm token] and [redacted: npm token]"


def test_secret_after_a_seeming_one_in_the_same_match_is_replaced() -> None:
    known = redactor(A_KEY="deadbeefdeadbeef", B_KEY="9deadbeefdeadbeef")
    assert known.redacted(rb'"\u00e9deadbeefdeadbeef"') == rb'"\u00e9[redacted: A_KEY]"'


_pieces = st.text(max_size=3) | st.sampled_from(
    [
        *SECRETS.values(),
        *(secret[1:] for secret in SECRETS.values()),
        *AFTER_AN_ESCAPE.values(),
        *(
            "\n",
            "\r",
            "\t",
            "\b",
            "\f",
            "\\",
            '"',
            "/",
            "é",
            "\\n",
            "\\u00e9",
            "aws_key=",
            "ibm_key:",
            "known-secret",
            '\\a/b\n"c\\',
        ),
    ]
)


@cases(few=60, many=1_000)
@given(
    texts=st.lists(st.lists(_pieces, max_size=6).map("".join), max_size=3),
    ascii_only=st.booleans(),
    nested=st.booleans(),
)
def test_redacted_json_of_any_text_is_valid_and_keeps_its_structure(
    texts: list[str], ascii_only: bool, nested: bool
) -> None:
    rows = [{"text": text, "keys": {text: [text, 1]}} for text in texts]
    known = redactor(A_KEY="nown-secretnown-secret", B_KEY='\\a/b\n"c\\' * 3, C_KEY="9aaaaaaaaaaaaaaa")
    body = json.dumps(rows, ensure_ascii=ascii_only)
    body = json.dumps({"inner": body}, ensure_ascii=ascii_only) if nested else body
    stored = json.loads(known.redacted(body.encode()))
    assert _shape(json.loads(stored["inner"]) if nested else stored) == _shape(rows)


def _shape(value: Any) -> object:
    """Return a JSON value with its strings left out."""
    if isinstance(value, dict):
        return {str(index): _shape(one) for index, one in enumerate(value.values())}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [_shape(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return type(value) if isinstance(value, str) else value


def test_in_a_diff_only_known_secrets_are_replaced() -> None:
    diff = '-DB="postgres://app:postgres@localhost/app"\n+KEY="AKIAIOSFODNN7EXAMPLE"\n'
    known = redactor(GIT_TOKEN="swordfish-of-the-deep", SHORT_KEY="DB")
    assert known.without_known(diff, {"sandbox token": "eyJ.eyJ.x"}) == (diff, [])
    assert known.without_known(diff + "+swordfish-of-the-deep eyJ.eyJ.x\n", {"sandbox token": "eyJ.eyJ.x"}) == (
        diff + "+[redacted: GIT_TOKEN] [redacted: sandbox token]\n",
        ["GIT_TOKEN", "sandbox token"],
    )


async def test_time_grows_with_the_length_of_the_text_only_and_a_large_body_blocks_nothing() -> None:
    """The work for 4 times the text is less than 12 times as much (it was 16 times), and the loop runs meanwhile."""
    redactor = SecretRedactor(dict, lambda: 0.0)
    key = "-----BEGIN PRIVATE KEY-----"
    small, large = (encode([key * count]) for count in (1_000, 4_000))

    def taken(body: bytes) -> float:
        began = time.process_time()
        assert key.encode() not in redactor.redacted(body)
        return time.process_time() - began

    assert taken(large) < 12 * max(taken(small), 0.001)
    turns = 0
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(redaction_thread.redacted(redactor, large))
        while not working.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 1
