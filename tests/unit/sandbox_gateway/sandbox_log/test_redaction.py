"""Secrets in workers' requests are replaced by their kind, and nothing else is changed."""

import base64
import hashlib
import json
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
