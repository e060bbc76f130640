"""What the feature `tasks` adds to the service: handlers of requests, and loops."""

import asyncio
from collections.abc import Iterable

from muster.agent_manager.database.engine import Database
from muster.agent_manager.database.notices import Notices
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.loops import Level, Loop, woken_by
from muster.agent_manager.settings import NAME, Settings
from muster.agent_manager.tasks.adapters.sandbox_gateway import Gateway
from muster.agent_manager.tasks.adapters.sandbox_logs import SandboxLogs
from muster.agent_manager.tasks.handlers.epochs import Epochs
from muster.agent_manager.tasks.handlers.submission import Submission
from muster.agent_manager.tasks.handlers.tasks import Tasks
from muster.agent_manager.tasks.reconcilers.deadlines import Deadlines
from muster.agent_manager.tasks.reconcilers.dependencies import Dependencies
from muster.agent_manager.tasks.reconcilers.dispatcher import Dispatcher
from muster.agent_manager.tasks.reconcilers.replacements import Replacements
from muster.agent_manager.tasks.reconcilers.sandbox_cleanup import Reaper, Sweeper
from muster.agent_manager.tasks.reconcilers.sandbox_log_consumer import Follower, Meter
from muster.common.bus.connection import Bus
from muster.common.bus.consume import Consumer
from muster.common.bus.journal import Journal
from muster.common.bus.service import Service
from muster.common.contracts.sandbox_log import all_log_streams
from muster.common.contracts.tasks import (
    CancelTask,
    GetSandboxAttempt,
    GetTask,
    GetTasks,
    ListTasks,
    ReplaceAttempt,
    ReportExit,
    SubmitTask,
)


def answers(service: Service, bus: Bus, database: Database, settings: Settings, catalogue: Catalogue) -> None:
    """Add the handlers of requests about tasks."""
    tasks = Tasks(database)
    epochs = Epochs(database, SandboxLogs(Journal(bus)))
    service.handles(SubmitTask, Submission(database, settings, catalogue, Gateway(bus)).submit)
    service.handles(GetTask, tasks.get)
    service.handles(GetTasks, tasks.several)
    service.handles(GetSandboxAttempt, tasks.of_sandbox)
    service.handles(ListTasks, tasks.page)
    service.handles(CancelTask, tasks.cancel)
    service.handles(ReplaceAttempt, epochs.replace)
    service.handles(ReportExit, epochs.report_exit)


def loops(bus: Bus, database: Database, settings: Settings, notices: Notices) -> Iterable[Loop]:
    """Return the loops of tasks: dispatch, dependencies, replacements, deadlines, sandbox logs and usage."""
    gateway, logs = Gateway(bus), SandboxLogs(Journal(bus))
    loop = woken_by(notices, settings)
    replacements = Replacements(database, gateway, logs, settings, now=bus.now)
    yield loop("dispatch", Dispatcher(database, gateway, settings), lambda intent: intent[1].attempt_id)
    yield loop("dependencies", Dependencies(database), str)
    yield loop("replacements", replacements, lambda saga: f"{saga.task_id}/{saga.epoch}")
    yield loop("sandbox cleanup", Sweeper(database, gateway), lambda attempt: attempt.sandbox_id)
    # Time passes without a notice: only the clock makes an attempt overdue.
    overdue = Deadlines(database, settings)
    level = Level("deadlines", overdue, key=lambda late: late[0].attempt_id, waker=asyncio.Event(), recheck_s=1.0)
    yield level.name, level.run
    yield "stray sandboxes", Reaper(database, gateway, every_s=settings.reap_every_s).run
    follower, meter = Follower(database, settings), Meter(database)
    for stream in all_log_streams():
        yield f"follow {stream}", Consumer(bus, stream, f"{NAME}-{stream[-2:]}", follower.take).run
    yield "usage", Consumer(bus, "MODEL_CALLS", f"{NAME}-meter", meter.take).run
