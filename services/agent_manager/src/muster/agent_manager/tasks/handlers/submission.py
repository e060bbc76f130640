"""Handles submissions of tasks: refuses tasks that can never run, and queues the others."""

from typing import Any, Final, cast

import msgspec

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.transaction import Transaction
from muster.agent_manager.fleet.domain.agents import AgentRecord
from muster.agent_manager.fleet.domain.config_check import refuse_unfit_config
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.fleet.store import agents
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.domain.limits import combined, with_defaults
from muster.agent_manager.tasks.domain.tasks import TaskRecord
from muster.agent_manager.tasks.handlers.views import task_view
from muster.agent_manager.tasks.store import tasks as stored
from muster.agent_manager.tasks.store.transitions import add_task
from muster.common.contract import fields_of, token
from muster.common.contracts.packages import Manifest
from muster.common.contracts.task_spec import Deliver, Repo, TaskSpec
from muster.common.contracts.tasks import SubmitTask, TaskView
from muster.common.faults import Conflict, InvalidMessage, TooMany
from muster.common.storable_values import refuse_unstorable, stored_bytes
from muster.common.worker_variables import refuse_variables

NO_MODEL = "none"
LONGEST_BYTES: Final = {
    "objective": 64 << 10,
    "labels": 16 << 10,
    "paths": 64 << 10,
    "metadata": 64 << 10,
    "env": 16 << 10,
}
"""The largest size in bytes of some fields, as JSON in PostgreSQL; the limits in `TaskSpec` would allow more bytes."""


class TaskSubmission:
    """Checks submitted tasks: refuses the tasks that can never run, and queues the others."""

    def __init__(
        self, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue, gateway: SandboxGatewayClient
    ) -> None:
        self._database, self._settings, self._catalogue, self._gateway = database, settings, catalogue, gateway

    async def submit(self, command: SubmitTask) -> TaskView:
        """Queue a task and return its view. A repeated `task_id` returns the task that is stored already."""
        refuse_unfit(command)
        async with self._database.begin() as tx:
            if task := await stored.read(tx, command.task_id):
                return await _view(tx, task)
            manifest = await self._package(tx, command)
        refuse_unfit_override(command, manifest)
        await self._refuse_unstartable(command, manifest)  # No transaction is open while the gateway is asked.
        async with self._database.begin() as tx:
            return await _view(tx, await stored.read(tx, command.task_id) or await self._add(tx, command, manifest))

    async def _refuse_unstartable(self, command: SubmitTask, manifest: Manifest) -> None:
        model = self._model(command, manifest) if manifest.needs_model else None
        network = combined(manifest.network, command.network)
        if model is not None or command.repo is not None or network is not None:
            most_usd = command.max_cost_usd
            await self._gateway.check(
                manifest.name,
                model=model,
                repo=command.repo,
                deliver=command.deliver,
                provider=command.provider,
                max_cost_usd=most_usd,
                network=network,
            )

    async def _add(self, tx: Transaction, command: SubmitTask, manifest: Manifest) -> TaskRecord:
        await self._package(tx, command, hold=True)  # The agent may have been deleted while the gateway was asked.
        task = await self._new(tx, command, manifest)
        if not await stored.room(tx, most=self._settings.max_pending):
            raise TooMany(f"the limit of {self._settings.max_pending} waiting tasks is reached; submit again later")
        if not await add_task(tx, task):  # Another request stored this id first.
            task = await stored.read(tx, command.task_id) or task
        return task

    async def _new(self, tx: Transaction, command: SubmitTask, manifest: Manifest) -> TaskRecord:
        return TaskRecord(
            task_id=command.task_id,
            agent_id=command.agent_id,
            wanted_agent_id=command.agent_id,
            package=manifest.name,
            model=self._model(command, manifest),
            spec=with_defaults(
                TaskSpec(**fields_of(TaskSpec, command)),
                manifest,
                model_timeout_s=self._settings.default_timeout_s,
            ),
            project=command.project,
            state="blocked" if await self._must_wait(tx, command) else "queued",
            version=1,
            epoch=0,
            sandbox_id=None,
            conversation_id=None,
            persistence_dir=None,
            created_at=tx.now,
            updated_at=tx.now,
        )

    def _model(self, command: SubmitTask, package: Manifest) -> str:
        if model := command.model or self._settings.default_model:
            return model
        if not package.needs_model:
            return NO_MODEL
        raise InvalidMessage(
            f"package {package.name} needs a model: name one (--model), such as openai/gpt-5-mini or a model that "
            "`muster model add` has stored, or set MUSTER_DEFAULT_MODEL where the stack is started",
            field="$.model",
        )

    async def _package(self, tx: Transaction, command: SubmitTask, *, hold: bool = False) -> Manifest:
        """Return the package of a task; with `hold`, lock the agent that the task names until `tx` ends."""
        if command.agent_id is None:
            manifest = self._catalogue.usable(command.package or self._settings.default_package)
            if "sandbox" not in manifest.modes:
                raise InvalidMessage(
                    f"package {manifest.name} runs no tasks, only processes; name another package", field="$.package"
                )
            if not await agents.any_taker(tx, manifest.name):
                raise Conflict(f"no agent of package {manifest.name} takes tasks now; start one, and submit again")
            return manifest
        read = agents.share if hold else agents.read
        if (agent := await read(tx, token(command.agent_id, "agent_id"))) is None:
            raise InvalidMessage(f"there is no agent {command.agent_id}", field="$.agent_id")
        refuse_taking_none(agent, command.package)
        return self._catalogue.usable(agent.package, field="$.agent_id")

    async def _must_wait(self, tx: Transaction, command: SubmitTask) -> bool:
        """Return whether a dependency is incomplete. Raises `InvalidMessage` if it does not exist in the project."""
        states = await stored.states(tx, command.depends_on, project=command.project)
        if unknown := [task_id for task_id in command.depends_on if task_id not in states]:
            raise InvalidMessage(
                f"dependency {unknown[0]} is not a task of project {command.project}", field="$.depends_on"
            )
        return any(state != "completed" for state in states.values())


def refuse_unfit(command: SubmitTask) -> None:
    """Raise `InvalidMessage` for the first field of a submitted task that cannot be stored or may contain a secret."""
    token(command.task_id, "task_id")
    refuse_variables(command.env)
    if command.deliver is not None:
        _refuse_undeliverable(command.deliver, command.repo)
    for name in command.__struct_fields__:
        value = msgspec.to_builtins(getattr(command, name))
        refuse_unstorable(value, f"$.{name}")
        if (most := LONGEST_BYTES.get(name)) and stored_bytes(value) > most:
            raise InvalidMessage(f"{name} is longer than {most} bytes; shorten it", field=f"$.{name}")


def _refuse_undeliverable(deliver: Deliver, repo: Repo | None) -> None:
    if repo is None:
        raise InvalidMessage("a result can be delivered only to a repository; name one with repo", field="$.repo")
    if deliver.pull_request and not deliver.push:
        raise InvalidMessage("a pull request needs a pushed branch; set push to true", field="$.deliver.push")


def refuse_unfit_override(command: SubmitTask, manifest: Manifest) -> None:
    """Raise `InvalidMessage` if `metadata.config`, which replaces the agent's config, does not fit its package."""
    if "config" not in command.metadata:
        return
    config: object = command.metadata["config"]
    if not isinstance(config, dict):
        raise InvalidMessage("metadata.config must be an object, like an agent's config", field="$.metadata.config")
    refuse_unfit_config(manifest, cast("dict[str, Any]", config), within="$.metadata.config")


def refuse_taking_none(agent: AgentRecord, package: str | None) -> None:
    """Raise `InvalidMessage` if the agent can never run this task, `Conflict` if the agent takes no tasks now."""
    if package not in (None, agent.package):
        raise InvalidMessage(
            f"agent {agent.agent_id} has package {agent.package}, not {package}; name another agent", field="$.package"
        )
    if agent.mode != "sandbox":
        raise InvalidMessage(
            f"agent {agent.agent_id} is a process and runs no tasks; name an agent of mode sandbox, or only a package",
            field="$.agent_id",
        )
    if agent.state == "quarantined":
        raise Conflict(f"agent {agent.agent_id} is quarantined ({agent.reason}); release it, or choose another")
    if agent.desired != "running":
        raise Conflict(f"agent {agent.agent_id} is stopped and takes no tasks; start it, or name only a package")


async def _view(tx: Transaction, task: TaskRecord) -> TaskView:
    return task_view(task, await stored.attempts_of(tx, task.task_id))
