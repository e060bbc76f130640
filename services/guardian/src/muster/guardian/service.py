"""The composition root of the guardian: every replica answers report requests; only the leader reads logs and acts."""

import asyncio

import structlog

from muster.common.bus.audit_trail import AuditTrail
from muster.common.bus.command_audit import CommandAudit
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.bus.streams import JetStreamRefusal, ensure_stream
from muster.common.contracts.guardian import GetReport, Steer
from muster.common.faults import TimedOut, Unavailable
from muster.common.supervision import supervise, until_told_to_stop
from muster.guardian.journal.domain.inputs import Policy
from muster.guardian.journal.handlers import ReportRequests
from muster.guardian.journal.store import GUARDIAN, GuardianLogs
from muster.guardian.leadership.reconcilers import LeaderLoop
from muster.guardian.leadership.store import GuardianLease, Leadership
from muster.guardian.liveness.reconcilers import SilenceWatch
from muster.guardian.settings import GuardianSettings
from muster.guardian.steering.handlers import SteeringRequests
from muster.guardian.steering.reconcilers import DecisionExecutor
from muster.guardian.trajectories.reconcilers import LogFollower
from muster.guardian.trajectories.store import TrajectoryStore

log = structlog.get_logger()

NAME = "guardian"


async def run(settings: GuardianSettings) -> None:
    """Serve requests, and take part in the election of the leader, until the process gets a signal to stop."""
    async with (
        open_bus(
            settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
        ) as bus,
        asyncio.TaskGroup() as tasks,
    ):
        leadership = Leadership(bus, ttl_s=settings.lease_ttl_s)
        await _ensure(bus, leadership, settings)
        trail, service = AuditTrail(bus), Service(NAME, bus, drain_s=settings.drain_s)
        service.handles(GetReport, ReportRequests(bus, GuardianLogs(bus)).get)
        command_audit = CommandAudit(bus, NAME, trail)
        leader = LeaderLoop(leadership, lambda lease: lead(bus, settings, leadership, command_audit, lease))
        async with service:
            election = tasks.create_task(supervise("leader loop", leader.run))
            audit = tasks.create_task(supervise("audit trail", trail.run))
            await until_told_to_stop()
            election.cancel()
            audit.cancel()
        await trail.finish()


async def _ensure(bus: Bus, leadership: Leadership, settings: GuardianSettings) -> None:
    while True:
        try:
            await ensure_stream(bus, GUARDIAN.kept_for(settings.guardian_kept_days))
            await leadership.ensure()
        except (Unavailable, TimedOut, JetStreamRefusal) as fault:
            log.warning("guardian streams could not be created", error=str(fault))
            # JetStream sends no message when it becomes available, so the guardian tries again after a pause.
            await asyncio.sleep(0.25)
        else:
            return


async def lead(
    bus: Bus, settings: GuardianSettings, leadership: Leadership, command_audit: CommandAudit, lease: GuardianLease
) -> None:
    """Run the loops and request handlers of the leading guardian, until cancelled."""
    logs = GuardianLogs(bus)
    trajectories = TrajectoryStore(logs, guardian_epoch=lease.epoch, policy=_policy(settings), now=bus.now)
    executor = DecisionExecutor(bus, trajectories)
    trajectories.on_change(executor.queue_pending)
    silence = SilenceWatch(bus, trajectories, settings)
    follower = LogFollower(bus, trajectories, silence, lambda: leadership.surely_leading)
    service = Service(NAME, bus, drain_s=settings.drain_s, command_audit=command_audit)
    service.handles(Steer, SteeringRequests(bus, trajectories, logs).steer)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervise("decision executor", executor.run))
        tasks.create_task(supervise("silence watch", silence.run))
        for name, consumer in follower.consumers().items():
            tasks.create_task(supervise(name, consumer.run))
        async with service:
            await asyncio.get_running_loop().create_future()  # This future never completes: wait until cancelled.


def _policy(settings: GuardianSettings) -> Policy:
    return Policy(
        repeat_threshold=settings.repeat_threshold,
        ignored_after=settings.ignored_after,
        most_interventions=settings.most_interventions,
        message_ttl_s=settings.message_ttl_s,
    )
