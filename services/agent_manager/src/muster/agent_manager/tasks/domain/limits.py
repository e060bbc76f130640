"""The defaults of a task from its package, and the sentence about an attempt that took too long."""

from typing import Final

import msgspec

from muster.common.contracts.model_calls import ModelFailed
from muster.common.contracts.packages import Manifest, PackageLimits
from muster.common.contracts.task_spec import DEFAULT_TIMEOUT_S, Network, TaskSpec

MODEL_LIMITS: Final = PackageLimits(max_steps=250, max_tokens=20_000_000)
"""The limits of a task whose package calls a model, if neither the task nor the package sets them.

The setting `default_timeout_s` contains the limit of the time."""
OTHER_LIMITS: Final = PackageLimits(timeout_s=DEFAULT_TIMEOUT_S)


def with_defaults(spec: TaskSpec, package: Manifest, *, model_timeout_s: float) -> TaskSpec:
    """Return the specification of a task with the limits, variables and network of its package where it sets none.

    `model_timeout_s` is the time limit of an attempt whose package calls a model, if the package sets none.
    """
    with_model = msgspec.structs.replace(MODEL_LIMITS, timeout_s=model_timeout_s)
    defaults = with_model if package.needs_model else OTHER_LIMITS
    found: dict[str, float | None] = {}
    for name in PackageLimits.__struct_fields__:
        for source in (spec, package.limits, defaults):
            if (value := getattr(source, name)) is not None:
                found[name] = value
                break
    env = package.env | spec.env
    return msgspec.structs.replace(spec, **found, env=env, network=combined(package.network, spec.network))


def combined(package: Network | None, task: Network | None) -> Network | None:
    """Return the network of a task: its own, with the hosts that its package needs. Its own mode comes first."""
    if package is None or task is None:
        return task or package
    hosts = [*package.hosts, *(host for host in task.hosts if host not in package.hosts)]
    return Network(mode=task.mode or package.mode, hosts=hosts if task.mode != "none" else task.hosts)


def took_too_long(limit_s: float, failing: ModelFailed | None) -> str:
    """Return why an attempt was ended that reached its time limit. A model that was failing is the cause."""
    limit = f"the limit of {limit_s:g} s (`muster task submit --timeout` sets a higher one)"
    if failing is None:
        return f"the attempt took longer than {limit}"
    return f"{failing.sentence.rstrip('.')}. The attempt then reached {limit}"


def why_it_ended(error: str | None, failing: ModelFailed | None) -> str | None:
    """Return the error of a run that ended while its model was failing: the model's failure is the cause."""
    if error is None or failing is None or failing.error in error:
        return error
    return f"{failing.sentence.rstrip('.')}. The agent then ended its run: {error}"
