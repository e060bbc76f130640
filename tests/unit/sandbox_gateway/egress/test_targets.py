"""The host and port that a request to the proxy asks for."""

import pytest

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.egress.domain.targets import Target, target_of


@pytest.mark.parametrize(
    ("method", "text", "target"),
    [
        ("CONNECT", "example.org:443", Target("example.org", 443)),
        ("CONNECT", "EXAMPLE.ORG.:443", Target("example.org", 443)),
        ("CONNECT", "[::FFFF:7F00:1]:443", Target("[::ffff:7f00:1]", 443)),
        ("GET", "http://example.org", Target("example.org", 80, "/")),
        ("GET", "HTTP://Example.org:8080/a?b=http://c@d", Target("example.org", 8080, "/a?b=http://c@d")),
        ("GET", "http://example.org?x", Target("example.org", 80, "/?x")),
    ],
)
def test_target_is_read_in_its_normal_form(method: str, text: str, target: Target):
    assert target_of(method, text) == target


@pytest.mark.parametrize(
    ("method", "text"),
    [
        *(("CONNECT", text) for text in ("example.org", "example.org:", "example.org:0", "example.org:99999", ":443")),
        *(("CONNECT", text) for text in ("user@example.org:443", "http://example.org/", "a/b:443", "::1:443", "*")),
        *(
            ("CONNECT", text)
            for text in ("2130706433:80", "0x7f.0.0.1:80", "017700000001:80", "127.1:80", "127.0.0.1.:x")
        ),
        *(("CONNECT", text) for text in ("xn--.org%2f:443", "exa\\mple.org:443", "ex%61mple.org:443", "bücher.de:443")),
        *(("GET", text) for text in ("/", "example.org", "https://example.org/", "ftp://example.org/", "http://")),
        *(("GET", text) for text in ("http://user:pw@example.org/", "http://127.1/", "http://[::1/", "http://a/#b")),
    ],
)
def test_unusual_target_is_refused(method: str, text: str):
    with pytest.raises(InvalidMessage):
        target_of(method, text)
