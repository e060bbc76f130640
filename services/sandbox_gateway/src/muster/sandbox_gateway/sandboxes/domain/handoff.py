"""Makes the claims of a sandbox's token, and the handoff: the file with the task, paths and token for a worker."""

from muster.common.contract import fields_of
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.model_calls import ModelSettings
from muster.common.contracts.task_spec import Repo, TaskSpec
from muster.common.contracts.worker_api import Handoff
from muster.sandbox_gateway.sandboxes.domain.tokens import CallLimits, SandboxClaims


def claims(create: CreateSandbox, *, expires: int, hosts: tuple[str, ...] | None) -> SandboxClaims:
    """Return the claims of a sandbox's token. The token expires at the Unix time `expires`, in seconds.

    `hosts` are the entries of the allow-list that the task names, and None for a sandbox without the proxy.
    """
    limits = CallLimits.of(create, create.used)
    return SandboxClaims(
        create.sandbox_id, create.task_id, create.agent_id, create.epoch, expires, create.model, limits, hosts
    )


def handoff(
    create: CreateSandbox,
    *,
    token: str,
    gateway_url: str,
    gateway_socket: str | None,
    egress_socket: str | None,
    workspace: str,
    state_dir: str,
    repo_url: str | None,
    beat_running_s: float,
    beat_idle_s: float,
    model_deadline_s: float,
    model_settings: ModelSettings,
) -> Handoff:
    """Return the handoff: the content of the file that a worker reads at its start and then deletes.

    `repo_url` is the URL of the repository that the worker clones. `model_settings` are those of the model's entry, if
    the model is configured. The task's own settings replace them.
    """
    repo = Repo(url=repo_url, ref=create.repo.ref if create.repo else None) if repo_url else None
    return Handoff(
        **fields_of(TaskSpec, create, repo=repo),
        gateway_url=gateway_url,
        gateway_socket=gateway_socket,
        egress_socket=egress_socket,
        token=token,
        sandbox_id=create.sandbox_id,
        task_id=create.task_id,
        agent_id=create.agent_id,
        epoch=create.epoch,
        conversation_id=create.conversation_id,
        package=create.package,
        model=create.model,
        workspace=workspace,
        state_dir=state_dir,
        beat_running_s=beat_running_s,
        beat_idle_s=beat_idle_s,
        model_deadline_s=model_deadline_s,
        model_settings=model_settings,
        previous=create.previous,
        used=create.used,
    )
