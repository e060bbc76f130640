"""Which hosts a sandbox may reach: the operator's list is the upper bound, and a task or package chooses from it."""

from ipaddress import ip_address

import pytest

from muster.common.contracts.task_spec import Network, NetworkMode
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.egress.domain.policy import NetworkPolicy

POLICY = NetworkPolicy("allow-list", "pypi *.example.org", "index.example.org:8080")


@pytest.mark.parametrize(
    ("operator", "wanted", "mode"),
    [
        ("allow-list", None, "allow-list"),
        ("allow-list", "none", "none"),
        ("allow-list", "host", "allow-list"),
        ("host", "allow-list", "allow-list"),
        ("none", "host", "none"),
    ],
)
def test_task_can_only_restrict_the_network(operator: NetworkMode, wanted: NetworkMode | None, mode: NetworkMode):
    assert NetworkPolicy(operator, "", "").mode_of(Network(mode=wanted)) == mode


def test_task_that_names_hosts_gets_the_allow_list_even_where_the_host_network_is_permitted():
    policy = NetworkPolicy("host", "", "")
    network = Network(hosts=["api.example.org"])

    policy.check(network)

    assert policy.mode_of(network) == "allow-list"
    assert policy.refusal(policy.claimed_hosts(network), "api.example.org", 443) is None
    assert policy.refusal(policy.claimed_hosts(network), "pypi.org", 443) is not None


def test_sandbox_without_named_hosts_may_reach_all_that_the_operator_allows():
    claim = POLICY.claimed_hosts(None)
    assert claim == ()
    assert POLICY.refusal(claim, "pypi.org", 443) is None
    assert "MUSTER_EGRESS_ALLOWED" in str(POLICY.refusal(claim, "evil.example", 443))


def test_named_hosts_are_the_only_ones_and_the_operators_list_still_counts():
    claim = POLICY.claimed_hosts(Network(hosts=["a.example.org", "evil.example"]))
    assert POLICY.refusal(claim, "a.example.org", 443) is None
    assert POLICY.refusal(claim, "pypi.org", 443) is not None
    assert POLICY.refusal(claim, "evil.example", 443) is not None


def test_claim_that_cannot_be_read_allows_nothing():
    assert POLICY.refusal(("a preset of a later release",), "pypi.org", 443) is not None


def test_sandbox_without_network_may_reach_nothing():
    claim = POLICY.claimed_hosts(Network(mode="none"))
    assert claim is None
    assert POLICY.refusal(claim, "pypi.org", 443) is not None


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (Network(mode="host"), "$.network.mode"),
        (Network(hosts=["evil.example"]), "$.network.hosts"),
        (Network(hosts=["*.org"]), "$.network.hosts"),
        (Network(hosts=["nosuchpreset"]), "$.network.hosts"),
        (Network(mode="none", hosts=["pypi"]), "$.network.hosts"),
    ],
)
def test_task_that_asks_for_more_than_the_operator_allows_is_refused(network: Network, field: str):
    with pytest.raises(InvalidMessage) as refused:
        POLICY.check(network)
    assert refused.value.field == field


def test_task_within_the_bound_is_accepted():
    POLICY.check(None)
    POLICY.check(Network(hosts=["pypi", "a.example.org:443"]))


@pytest.mark.parametrize(
    ("host", "port", "reachable"),
    [
        ("pypi.org", 443, ["8.8.8.8"]),
        ("index.example.org", 443, ["8.8.8.8"]),
        ("index.example.org", 8080, ["8.8.8.8", "127.0.0.1"]),
    ],
)
def test_private_address_is_reachable_only_for_a_host_and_port_that_the_operator_lists(
    host: str, port: int, reachable: list[str]
):
    found = [ip_address(text) for text in ("8.8.8.8", "127.0.0.1", "169.254.169.254")]
    assert POLICY.reachable(host, port, found) == [ip_address(text) for text in reachable]


@pytest.mark.parametrize("setting", ["nosuchpreset", "a b@c", "*"])
def test_wrong_entry_of_a_setting_is_refused(setting: str):
    with pytest.raises(InvalidMessage):
        NetworkPolicy("allow-list", setting, "")
