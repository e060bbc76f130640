"""Entries of an allow-list of hosts: which hosts and ports they allow, and which ways to write a host are refused."""

import pytest

from muster.common.faults import InvalidMessage
from muster.common.host_rules import host_name, parse_rule, rules_of, split_entries
from muster.common.network_presets import FORGES, PRESETS, REGISTRIES


@pytest.mark.parametrize(
    ("entry", "host", "port", "allowed"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 80, True),
        ("example.org", "example.org", 22, False),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "notexample.org", 443, False),
        ("EXAMPLE.org.", "example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "notexample.org", 443, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("203.0.113.7", "203.0.113.7", 443, True),
        ("[2001:DB8::1]:8080", "[2001:db8::1]", 8080, True),
        ("index:8080", "index", 8080, True),
        ("pypi", "files.pythonhosted.org", 443, True),
        ("PyPI", "upload.pypi.org", 443, False),
        ("registries", "registry.npmjs.org", 443, True),
        ("registries", "github.com", 443, False),
    ],
)
def test_entry_allows_exactly_the_hosts_and_ports_that_it_names(entry: str, host: str, port: int, allowed: bool):
    assert rules_of((entry,)).allows(host, port) is allowed


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "*.*.org", "a..b", "-a.org", "a-.org", "nosuchpreset", "http://example.org", "example.org/x"),
        *("example.org:0", "example.org:65536", "example.org:x", "user@example.org", "bücher.example", "ex ample.org"),
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "1.2.3.4.5", "*.1.2.3.4", "::1", "[::1", "[fe80::1%eth0]"),
    ],
)
def test_entry_that_is_no_host_is_refused_with_a_reason(entry: str):
    with pytest.raises(InvalidMessage) as refused:
        parse_rule(entry)
    assert repr(entry) in str(refused.value)


@pytest.mark.parametrize(
    "text", ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "1.2.3", "a.0x1", "[::1%lo]", "a b", "a\tb"]
)
def test_unusual_way_to_write_an_address_is_no_host(text: str):
    with pytest.raises(ValueError, match=r"IPv4|IPv6|host name"):
        host_name(text)


@pytest.mark.parametrize(
    ("bound", "entry", "inside"),
    [
        (("registries",), "pypi", True),
        (("pypi",), "registries", False),
        (("*.example.org",), "a.example.org", True),
        (("*.example.org",), "*.b.example.org", True),
        (("*.example.org",), "*.example.org", True),
        (("*.example.org",), "example.org", False),
        (("a.example.org",), "*.example.org", False),
        (("example.org",), "example.org:443", True),
        (("example.org",), "example.org:8443", False),
        (("example.org:443",), "example.org", False),
        (("example.org:443", "example.org:80"), "example.org", True),
        ((), "example.org", False),
    ],
)
def test_bound_covers_an_entry_only_if_it_allows_each_of_its_hosts(bound: tuple[str, ...], entry: str, inside: bool):
    assert all(map(rules_of(bound).covers, rules_of((entry,)).rules)) is inside


def test_presets_contain_no_host_that_only_accepts_uploads():
    assert not {"upload.pypi.org", "crates.io", "storage.googleapis.com"} & set(PRESETS["registries"])
    assert PRESETS["forges"] == tuple(host for hosts in FORGES.values() for host in hosts)
    assert not set(REGISTRIES) & set(FORGES)


def test_setting_separates_entries_by_commas_and_spaces():
    assert split_entries(" pypi, npm\n*.example.org ,,") == ("pypi", "npm", "*.example.org")
