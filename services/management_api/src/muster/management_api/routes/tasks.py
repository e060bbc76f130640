"""`/api/v1/tasks`: submit, look, cancel, steer."""

from collections.abc import Iterable

from starlette.responses import Response

from muster.common.contracts.guardian import GetReport, GuardianReport, InterventionView, Steer
from muster.common.contracts.tasks import CancelTask, ListTasks, TaskPage, TaskView
from muster.common.faults import Forbidden, NotFound
from muster.common.ids import NewId
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.domain.principals import Principal
from muster.management_api.domain.queries import TaskQuery
from muster.management_api.domain.requests import Cancellation, NewMessage, NewTask
from muster.management_api.routes.answers import answer
from muster.management_api.routes.operation import Asked, Operation

TASKS = "/api/v1/tasks"
ONE = f"{TASKS}/{{task_id}}"
DEFAULT_PROJECT = "default"


class Tasks:
    """Tasks, for people."""

    def __init__(self, neighbours: Neighbours, *, new_id: NewId) -> None:
        self._neighbours, self._new_id = neighbours, new_id

    def operations(self) -> Iterable[Operation]:
        """The table."""
        of = Operation
        yield of("GET", ONE, self.get, "get-task", "One task with its attempts", reply=TaskView)
        yield of("GET", TASKS, self.list, "list-tasks", "Tasks, newest first", reply=TaskPage)
        yield of("POST", TASKS, self.submit, "submit-task", "Queue a piece of work", reply=TaskView, status=201)
        yield of(
            "POST",
            f"{ONE}/cancel",
            self.cancel,
            "cancel-task",
            "End a task for good",
            reply=TaskView,
            optional_body=True,
        )
        yield of(
            "POST",
            f"{ONE}/steer",
            self.steer,
            "steer-task",
            "Say something to the agent at work",
            reply=InterventionView,
            status=202,
            refusals=(410,),
        )
        report = "Findings and interventions"
        yield of("GET", f"{ONE}/guardian", self.report, "get-report", report, reply=GuardianReport)

    async def submit(self, asked: Asked[None, NewTask]) -> Response:
        """Queue a task. Its id is in the answer and in `Location`; 429 when too many wait."""
        new, own = asked.body, asked.caller.project
        if own is not None and new.project not in (None, own):
            raise Forbidden(f"this key is for project {own} only", field="$.project")
        command = new.command(asked.mint("tsk", self._new_id), project=own or DEFAULT_PROJECT)
        view = await self._neighbours.ask(command)
        return answer(view, 201, {"Location": f"{TASKS}/{view.task_id}"})

    async def list(self, asked: Asked[TaskQuery, None]) -> Response:
        """Tasks that match every filter, newest first; `next_cursor` continues. A project's key sees that project."""
        query, own = asked.query, asked.caller.project
        if own is not None and query.project not in (None, own):
            raise Forbidden(f"this key is for project {own} only", field="$.project")
        wanted = ListTasks(
            state=query.state,
            project=own or query.project,
            labels=query.labels,
            limit=query.limit,
            cursor=query.cursor,
        )
        return answer(await self._neighbours.ask(wanted))

    async def get(self, asked: Asked[None, None]) -> Response:
        """One task with all its attempts."""
        view = await self._neighbours.task(asked.id("task_id"))
        refuse_foreign(view, asked.caller)
        return answer(view)

    async def cancel(self, asked: Asked[None, Cancellation]) -> Response:
        """End a task for good; its attempt is stopped. 409 when it has ended otherwise."""
        task_id = await self._own(asked)
        return answer(await self._neighbours.ask(CancelTask(task_id=task_id, reason=asked.body.reason)))

    async def steer(self, asked: Asked[None, NewMessage]) -> Response:
        """Say something to the live attempt; what becomes of it is in the task's events. 410 when it has ended."""
        new, task_id = asked.body, await self._own(asked)
        message_id = asked.mint("msg", self._new_id)
        command = Steer(message_id=message_id, target=task_id, text=new.text, sender=asked.who, urgent=new.urgent)
        return answer(await self._neighbours.ask(command), 202)

    async def report(self, asked: Asked[None, None]) -> Response:
        """What the guardian found and did, with what it rests on."""
        return answer(await self._neighbours.ask(GetReport(task_id=await self._own(asked))))

    async def _own[Q, B](self, asked: Asked[Q, B]) -> str:
        """The task's id, once it is known that the caller may see it. Only a project's key pays for that."""
        task_id = asked.id("task_id")
        if asked.caller.project is not None:
            refuse_foreign(await self._neighbours.task(task_id), asked.caller)
        return task_id


def refuse_foreign(view: TaskView, caller: Principal) -> None:
    """For a key of one project, tasks of others do not exist."""
    if caller.project is not None and view.project != caller.project:
        raise NotFound(f"there is no task {view.task_id}", field="$.task_id")
