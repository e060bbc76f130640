"""The routes below `/api/v1/tasks`, which submit, read, cancel, deliver and steer tasks."""

from typing import Annotated

from fastapi import Body, Query, Response

from muster.common.contract import fields_of
from muster.common.contracts.guardian import GetReport, GuardianReport, InterventionView, Steer
from muster.common.contracts.task_bodies import Cancellation, NewDeliver, NewMessage, NewTask
from muster.common.contracts.task_spec import Deliver
from muster.common.contracts.tasks import CancelTask, DeliverTask, ListTasks, TaskPage, TaskView
from muster.common.faults import Forbidden, NotFound
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.application_parts import Services
from muster.management_api.http.idempotency.requests import Idempotent
from muster.management_api.http.ids import TaskId
from muster.management_api.http.openapi import BODY, LOCATION, refuses
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient
from muster.management_api.tasks.domain.queries import TaskQuery
from muster.management_api.tasks.domain.submission import submit_command

TASKS = "/api/v1/tasks"
DEFAULT_PROJECT = "default"

Viewer = Annotated[Principal, requires("viewer", "tasks:read", by_project=True)]
Operator = Annotated[Principal, requires("operator", "tasks:write", by_project=True)]

router = routes_of(TASKS, "tasks")


@router.get("", responses=refuses(422))
async def list_tasks(query: Annotated[TaskQuery, Query()], caller: Viewer, services: Services) -> TaskPage:
    """List the tasks that match all filters, newest first. `next_cursor` is the cursor of the next page.

    A key of a project lists only the tasks of this project.
    """
    query.project = _project(query.project, caller)
    return await services.ask(ListTasks(**query.filters))


@router.post("", status_code=201, responses=BODY | {201: LOCATION})
async def submit_task(
    new: Annotated[
        NewTask, Body(examples=[{"objective": "Say hello.", "package": "echo", "labels": {"team": "core"}}])
    ],
    caller: Operator,
    new_id: Idempotent,
    services: Services,
    response: Response,
) -> TaskView:
    """Submit a task. The reply and the header `Location` contain the task's id.

    The status is 429 if too many tasks wait.
    """
    project = _project(new.project, caller)
    view = await services.ask(submit_command(new, new_id("tsk"), project=project or DEFAULT_PROJECT))
    response.headers["Location"] = f"{TASKS}/{view.task_id}"
    return view


@router.get("/{task_id}", responses=refuses(404, 422))
async def get_task(task_id: TaskId, caller: Viewer, services: Services) -> TaskView:
    """Return one task with all attempts of the task."""
    return own(await services.task(task_id), caller)


@router.post("/{task_id}/cancel", responses=BODY | refuses(404))
async def cancel_task(
    task_id: TaskId,
    caller: Operator,
    _: Idempotent,
    services: Services,
    why: Annotated[Cancellation, Body(examples=[{"reason": "no longer needed"}], default_factory=Cancellation)],
) -> TaskView:
    """Cancel a task and stop its running attempt. The status is 409 if the task has already ended in another way."""
    await _refuse_foreign(task_id, caller, services)
    return await services.ask(CancelTask(task_id=task_id, reason=why.reason))


@router.post("/{task_id}/deliver", status_code=202, responses=BODY | refuses(404))
async def deliver_task(
    task_id: TaskId,
    how: Annotated[NewDeliver, Body(examples=[{"pull_request": True}], default_factory=NewDeliver)],
    caller: Operator,
    _: Idempotent,
    services: Services,
) -> TaskView:
    """Deliver the accepted result of a task that has ended: push a branch, and perhaps open a pull request.

    The field `delivery` of the task shows the outcome later. A task has one branch and one pull request, so a repeated
    request makes no second one. A delivery that has failed is tried again. The status is 409 if the task has no
    accepted result, or if another branch was used before.
    """
    await _refuse_foreign(task_id, caller, services)
    return await services.ask(DeliverTask(task_id=task_id, **fields_of(Deliver, how)))


@router.post("/{task_id}/steer", status_code=202, responses=BODY | refuses(404))
async def steer_task(
    task_id: TaskId,
    new: Annotated[NewMessage, Body(examples=[{"text": "Look at the second test first."}])],
    caller: Operator,
    new_id: Idempotent,
    services: Services,
) -> InterventionView:
    """Send a message to the agent that works on a task. The status is 409 if the task has ended.

    The task's events show the stages of the message, such as its delivery.
    """
    await _refuse_foreign(task_id, caller, services)
    message_id = new_id("msg")
    command = Steer(message_id=message_id, target=task_id, text=new.text, sender=caller.name, urgent=new.urgent)
    return await services.ask(command)


@router.get("/{task_id}/guardian", responses=refuses(404, 422))
async def get_report(task_id: TaskId, caller: Viewer, services: Services) -> GuardianReport:
    """Return the guardian's findings about a task and its interventions, each with the events that are its evidence."""
    await _refuse_foreign(task_id, caller, services)
    return await services.ask(GetReport(task_id=task_id))


def _project(named: str | None, caller: Principal) -> str | None:
    """Return the project of the caller's key, or else the project that the request names.

    Raises `Forbidden` if the request names another project than the key's project.
    """
    if caller.project is not None and named not in (None, caller.project):
        raise Forbidden(f"this key is only for the project {caller.project}; name this project", field="$.project")
    return caller.project or named


async def _refuse_foreign(task_id: str, caller: Principal, services: ServiceClient) -> None:
    """Raise `NotFound` if the task is not in the project of the caller's key.

    The task is read from the agent manager only if the caller's key belongs to a project.
    """
    if caller.project is not None:
        own(await services.task(task_id), caller)


def own(view: TaskView, caller: Principal) -> TaskView:
    """Return the view of a task. Raises `NotFound` if the caller's key belongs to another project than the task."""
    if caller.project is not None and view.project != caller.project:
        raise NotFound(f"there is no task {view.task_id}", field="$.task_id")
    return view
