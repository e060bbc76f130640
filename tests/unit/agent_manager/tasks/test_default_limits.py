"""A task without limits, variables and network of its own gets those of its package, and else the deployment's."""

import msgspec
import pytest

from muster.agent_manager.tasks.domain.limits import combined, with_defaults
from muster.common.contracts.packages import Manifest, PackageLimits
from muster.common.contracts.task_spec import DEFAULT_TIMEOUT_S, Network, TaskSpec
from tests.contract.examples import least

MANIFEST = msgspec.convert(least(Manifest), Manifest)
SPEC = msgspec.convert(least(TaskSpec), TaskSpec)


def timeout_s(spec: TaskSpec = SPEC, **fields: object) -> float | None:
    return with_defaults(spec, msgspec.structs.replace(MANIFEST, **fields), model_timeout_s=77.0).timeout_s


def test_time_limit_comes_from_the_task_then_the_package_then_the_setting() -> None:
    package = PackageLimits(timeout_s=60)
    assert timeout_s(msgspec.structs.replace(SPEC, timeout_s=5), needs_model=True, limits=package) == 5
    assert timeout_s(needs_model=True, limits=package) == 60
    assert timeout_s(needs_model=True) == 77


def test_setting_is_for_packages_that_call_a_model_only() -> None:
    assert timeout_s(needs_model=False) == DEFAULT_TIMEOUT_S


def test_variables_of_a_package_are_set_and_those_of_the_task_come_first() -> None:
    package = msgspec.structs.replace(MANIFEST, env={"A": "package", "B": "package"})
    spec = msgspec.structs.replace(SPEC, env={"B": "task"})
    assert with_defaults(spec, package, model_timeout_s=77.0).env == {"A": "package", "B": "task"}


@pytest.mark.parametrize(
    ("package", "task", "together"),
    [
        (None, None, None),
        (Network(hosts=["pypi"]), None, Network(hosts=["pypi"])),
        (None, Network(hosts=["npm"]), Network(hosts=["npm"])),
        (Network(hosts=["pypi"]), Network(hosts=["npm", "pypi"]), Network(hosts=["pypi", "npm"])),
        (Network(mode="allow-list", hosts=["pypi"]), Network(mode="none"), Network(mode="none")),
        (Network(mode="none"), Network(mode="allow-list"), Network(mode="allow-list")),
    ],
)
def test_hosts_of_a_package_are_added_to_those_of_the_task(
    package: Network | None, task: Network | None, together: Network | None
) -> None:
    assert combined(package, task) == together
