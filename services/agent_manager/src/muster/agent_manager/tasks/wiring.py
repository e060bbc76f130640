"""Wiring of the feature `tasks`: adds its request handlers to the NATS service, and makes its loops."""

import asyncio
from collections.abc import Iterable

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.fleet.domain.packages import Catalogue
from muster.agent_manager.loops import Loop, ReconcileLoop, reconcile_loop
from muster.agent_manager.settings import NAME, ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.agent_manager.tasks.adapters.sandbox_logs import SandboxLogReader
from muster.agent_manager.tasks.handlers.epoch_requests import EpochRequests
from muster.agent_manager.tasks.handlers.submission import TaskSubmission
from muster.agent_manager.tasks.handlers.tasks import TaskRequests
from muster.agent_manager.tasks.reconcilers.deadlines import OverdueAttempts
from muster.agent_manager.tasks.reconcilers.dependencies import DependencyResolver
from muster.agent_manager.tasks.reconcilers.dispatcher import Dispatcher
from muster.agent_manager.tasks.reconcilers.replacements import ReplacementReconciler
from muster.agent_manager.tasks.reconcilers.sandbox_cleanup import SandboxSweeper, StraySandboxReaper
from muster.agent_manager.tasks.reconcilers.sandbox_log_consumer import SandboxLogConsumer, UsageRecorder
from muster.common.bus.connection import Bus
from muster.common.bus.consume import Consumer
from muster.common.bus.message_store import MessageStore
from muster.common.bus.service import Service
from muster.common.contracts.sandbox_log import all_log_streams
from muster.common.contracts.tasks import (
    CancelTask,
    GetSandboxAttempt,
    GetTask,
    ListTasks,
    ReplaceAttempt,
    ReportExit,
    SubmitTask,
)


def answers(
    service: Service, bus: Bus, database: ManagerDatabase, settings: ManagerSettings, catalogue: Catalogue
) -> None:
    """Add the handlers of requests about tasks to the NATS service."""
    tasks = TaskRequests(database)
    epochs = EpochRequests(database, SandboxLogReader(MessageStore(bus)))
    service.handles(SubmitTask, TaskSubmission(database, settings, catalogue, SandboxGatewayClient(bus)).submit)
    service.handles(GetTask, tasks.get)
    service.handles(GetSandboxAttempt, tasks.of_sandbox)
    service.handles(ListTasks, tasks.page)
    service.handles(CancelTask, tasks.cancel)
    service.handles(ReplaceAttempt, epochs.replace)
    service.handles(ReportExit, epochs.report_exit)


def loops(bus: Bus, database: ManagerDatabase, settings: ManagerSettings, notices: ChangeNotices) -> Iterable[Loop]:
    """Return the loops of the feature `tasks`: dispatch, dependencies, replacements, deadlines, cleanup, logs, cost."""
    gateway, logs = SandboxGatewayClient(bus), SandboxLogReader(MessageStore(bus))
    woken = (notices, settings)
    replacements = ReplacementReconciler(database, gateway, logs, settings, now=bus.now)
    dispatcher = Dispatcher(database, gateway, settings)
    yield reconcile_loop("dispatch", dispatcher, lambda intent: intent[1].attempt_id, *woken)
    yield reconcile_loop("dependencies", DependencyResolver(database), str, *woken)
    yield reconcile_loop("replacements", replacements, lambda saga: f"{saga.task_id}/{saga.epoch}", *woken)
    sweeper = SandboxSweeper(database, gateway)
    yield reconcile_loop("sandbox cleanup", sweeper, lambda attempt: attempt.sandbox_id, *woken)
    # The database sends no notice when time passes, so this loop has a waker that is never set and runs every second.
    overdue = OverdueAttempts(database, gateway, settings)
    level = ReconcileLoop(
        "deadlines", overdue, key=lambda late: late[0].attempt_id, waker=asyncio.Event(), recheck_s=1.0
    )
    yield level.name, level.run
    yield "stray sandboxes", StraySandboxReaper(database, gateway, every_s=settings.reap_every_s).run
    follower, meter = SandboxLogConsumer(database, settings), UsageRecorder(database)
    for stream in all_log_streams():
        yield f"follow {stream}", Consumer(bus, stream, f"{NAME}-{stream[-2:]}", follower.take).run
    yield "usage", Consumer(bus, "MODEL_CALLS", f"{NAME}-meter", meter.take).run
