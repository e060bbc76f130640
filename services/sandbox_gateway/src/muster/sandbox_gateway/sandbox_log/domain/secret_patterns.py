r"""The forms of secrets that the gateway removes from workers' requests before it stores them.

The patterns are those of detect-secrets (Yelp, Apache 2.0) whose match needs a fixed prefix or the name of a service.
The patterns of detect-secrets that match any random text are left out, because they would also match commit ids,
digests and ids, and so destroy evidence. A text is a worker's JSON, in which `\"` and `\n` stand for a quote and a line
end. No match contains a quote, and a match ends before a backslash of an unknown escape, so the JSON stays valid.
A match may begin with the letter of an escape (`npm_` in `\npm_`); `redaction.py` keeps this letter.

A pattern with a group replaces only the group. RE2 has no look-around, so that its time grows with the length of the
text only, whatever a worker sends.
"""

from typing import Final

_NAMED: Final = r"""[_-]?(?:api)?[_-]?(?:key|pwd|pw|password|pass|token)[\\"' :=>]{1,8}"""
_KEY_BLOCK: Final = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_IN_URL: Final = r"""[^:/?#\[\]@!$&'()*+,;=\s"\\<>]+"""

_AWS_NAME: Final = r"""(?i:aws[\w .-]{0,20}(?:key|pwd|pw|password|pass|token)[\w\\"' :=>.-]{0,20}[\\"' =:])"""
_GITLAB: Final = (
    r"(?:glpat|gldt|glft|glsoat|glrt|glcbt)-[A-Za-z0-9_-]{20,50}|GR1348941[A-Za-z0-9_-]{20,50}"
    r"|glimt-[A-Za-z0-9_-]{25}|glptt-[A-Za-z0-9_-]{40}|gloas-[A-Za-z0-9_-]{64}|glagent-[A-Za-z0-9_-]{50,999}"
)
_START: Final = r"(?:\b|\\[nrtbf])"
"""The begin of a word. In JSON the word may follow the letter of an escape: `\\nsk-…`."""

PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    ("aws key", _START + r"((?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16})\b"),
    ("aws secret key", _AWS_NAME + r"([0-9a-zA-Z/+]{40})\b"),
    ("azure storage key", r"AccountKey=([a-zA-Z0-9+/=]{88})"),
    ("password in a URL", rf":(?://|\\/\\/){_IN_URL}:({_IN_URL})@"),
    ("discord token", _START + r"([MNO][a-zA-Z\d_-]{23,25}\.[a-zA-Z\d_-]{6}\.[a-zA-Z\d_-]{27})\b"),
    ("github token", r"gh[pousr]_[A-Za-z0-9_]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"),
    ("gitlab token", _GITLAB),
    ("json web token", r"eyJ[A-Za-z0-9_=-]+\.eyJ[A-Za-z0-9_=-]+\.?[A-Za-z0-9_.+/=-]*"),
    ("mailchimp key", _START + r"([0-9a-z]{32}-us[0-9]{1,2})\b"),
    ("npm token", r"""_authToken=\s?([^\s"\\]+)|npm_[A-Za-z0-9]{36}\b"""),
    (
        "openai key",
        _START + r"(sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,250}|[A-Za-z0-9_-]{0,99}T3BlbkFJ[A-Za-z0-9]{20}))",
    ),
    ("anthropic key", _START + r"(sk-ant-[A-Za-z0-9_-]{20,250})"),
    ("openrouter key", _START + r"(sk-or-[A-Za-z0-9_-]{20,250})"),
    ("google api key", r"AIza[0-9A-Za-z_-]{35}"),
    ("hugging face token", _START + r"(hf_[A-Za-z0-9]{30,60})\b"),
    (
        "private key",
        # The key ends with its last line, or where its text ends. Each byte is looked at once, also if no END follows.
        _KEY_BLOCK + r"""(?:[\w+/=:, ]|-[^-"\\]|\\+[nrt/])*(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?""",
    ),
    ("pypi token", r"pypi-AgE[A-Za-z0-9_-]{70,999}"),
    ("sendgrid key", _START + r"(SG\.[a-zA-Z0-9_-]{22}\.[a-zA-Z0-9_-]{43})\b"),
    ("slack token", r"(?i:xox[abposr]-(?:\d+-)+[a-z0-9]+)"),
    ("slack webhook", r"hooks\.slack\.com/services/T[a-zA-Z0-9_]+/B[a-zA-Z0-9_]+/[a-zA-Z0-9_]+"),
    ("square secret", r"sq0csp-[0-9A-Za-z_-]{43}"),
    ("stripe key", _START + r"([rs]k_live_[0-9a-zA-Z]{24,99})"),
    ("telegram token", _START + r"(\d{8,10}:AA[0-9A-Za-z_-]{33})\b"),
    ("twilio key", _START + r"(SK[0-9a-f]{32})\b"),
    ("artifactory key", _START + r"(AKCp[0-9A-Za-z]{10,99})\b"),
    ("cloudant key", rf"(?i:cloudant{_NAMED})([0-9a-f]{{64}}|[a-z]{{24}})\b"),
    ("softlayer key", rf"(?i:softlayer{_NAMED})([a-z0-9]{{64}})\b"),
    ("ibm cloud key", rf"(?i:ibm(?:[_-]?cloud)?(?:[_-]?iam)?{_NAMED})([\w-]{{44}})\b"),
)
"""The name of each kind of secret, which the stored text shows instead of the secret, and its pattern for RE2."""
