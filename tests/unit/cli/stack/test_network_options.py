"""The options of `muster up` for the network of sandboxes."""

import click
import pytest
from click.testing import CliRunner

from muster.cli.app import muster
from muster.cli.commands.stack.network_options import network_variables


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch):
    for name in ("MUSTER_EGRESS_ALLOWED", "MUSTER_SANDBOX_NETWORK", "MUSTER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_options_that_are_not_given_change_no_setting():
    assert network_variables(None, ()) == {}


def test_allow_adds_to_the_default_or_to_the_configured_list(monkeypatch: pytest.MonkeyPatch):
    assert network_variables("allow-list", ("github",)) == {
        "MUSTER_SANDBOX_NETWORK": "allow-list",
        "MUSTER_EGRESS_ALLOWED": "registries,github",
    }
    monkeypatch.setenv("MUSTER_EGRESS_ALLOWED", "pypi")
    assert network_variables(None, ("a.org", "b.org")) == {"MUSTER_EGRESS_ALLOWED": "pypi,a.org,b.org"}


def test_host_that_cannot_be_read_is_refused_before_anything_starts():
    result = CliRunner().invoke(muster, ["up", "--allow", "no such host"])
    assert result.exit_code == click.UsageError.exit_code
    assert "no such host" in result.output
