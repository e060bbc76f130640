"""A task without limits of its own gets those of its package, and else those of the deployment."""

import msgspec

from muster.agent_manager.tasks.domain.limits import with_defaults
from muster.common.contracts.packages import Manifest, PackageLimits
from muster.common.contracts.task_spec import DEFAULT_TIMEOUT_S, TaskSpec
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
