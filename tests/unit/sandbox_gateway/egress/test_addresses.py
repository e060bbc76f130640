"""Which IP addresses the proxy may reach."""

from ipaddress import ip_address

import pytest

from muster.sandbox_gateway.egress.domain.addresses import is_never_reachable, is_public

PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "0.0.0.0", "198.18.0.1", "240.0.0.1"),
    *("169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200", "224.0.0.1", "255.255.255.255"),
    *("::1", "::", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2001:0:1::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_and_special_address_is_not_public(text: str):
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_ordinary_address_is_public(text: str):
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", ["169.254.169.254", "0.0.0.0", "fe80::1", "ff02::1", "::ffff:169.254.169.254"])
def test_link_local_address_is_refused_even_for_a_private_host(text: str):
    assert is_never_reachable(ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1"])
def test_private_address_can_be_permitted_by_the_operator(text: str):
    assert not is_never_reachable(ip_address(text))
