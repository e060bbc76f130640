"""Environment variables of tasks and packages: secrets, and variables that Muster sets itself, are refused."""

import pytest

from muster.common.faults import InvalidMessage
from muster.common.worker_variables import refuse_variables


@pytest.mark.parametrize("name", ["PATH", "HOME", "PYTHONPATH", "LD_PRELOAD", "https_proxy", "NO_PROXY", "MUSTER_X"])
def test_variable_that_muster_sets_itself_is_refused_by_name(name: str):
    with pytest.raises(InvalidMessage, match=f"env.{name} is set by Muster") as refused:
        refuse_variables({"CI": "1", name: "x"})
    assert refused.value.field == f"$.env.{name}"


@pytest.mark.parametrize("name", ["API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "secrets"])
def test_variable_that_may_be_a_secret_is_refused(name: str):
    with pytest.raises(InvalidMessage, match="looks like a secret"):
        refuse_variables({name: "x"})


def test_ordinary_variables_are_accepted():
    refuse_variables({"CI": "1", "MY_PATH": "x", "PIP_INDEX_URL": "http://index/simple", "NODE_ENV": "test"})
