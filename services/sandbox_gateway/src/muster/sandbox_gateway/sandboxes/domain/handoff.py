"""All that a worker is told."""

from muster.common.contracts.doors import Handoff
from muster.common.contracts.gateway import CreateSandbox
from muster.common.contracts.task_spec import Repo, spec_fields
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims


def claims(asked: CreateSandbox, *, expires: int) -> SandboxClaims:
    """What the token of a sandbox says."""
    return SandboxClaims(asked.sandbox_id, asked.task_id, asked.agent_id, asked.epoch, expires, asked.model)


def handoff(
    asked: CreateSandbox,
    *,
    token: str,
    gateway_url: str,
    gateway_socket: str | None,
    workspace: str,
    state_dir: str,
    repo_url: str | None,
    beat_running_s: float,
    beat_idle_s: float,
    model_deadline_s: float,
) -> Handoff:
    """Return the content of the file that a worker reads and deletes; `repo_url` is the copy that it clones."""
    repo = Repo(url=repo_url, ref=asked.repo.ref if asked.repo else None) if repo_url else None
    return Handoff(
        **spec_fields(asked, repo=repo),
        gateway_url=gateway_url,
        gateway_socket=gateway_socket,
        token=token,
        sandbox_id=asked.sandbox_id,
        task_id=asked.task_id,
        agent_id=asked.agent_id,
        epoch=asked.epoch,
        conversation_id=asked.conversation_id,
        package=asked.package,
        model=asked.model,
        workspace=workspace,
        state_dir=state_dir,
        beat_running_s=beat_running_s,
        beat_idle_s=beat_idle_s,
        model_deadline_s=model_deadline_s,
    )
