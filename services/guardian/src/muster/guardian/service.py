"""Wires the guardian: every replica answers requests for reports; the leader folds logs and acts."""

import asyncio

import structlog

from muster.common.bus.audit import AuditTrail
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.bus.streams import JetStreamRefusal, ensure_stream
from muster.common.bus.writes import CommandAudit
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
    """Run the service until the process gets a signal to stop."""
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
        writes = CommandAudit(bus, NAME, trail)
        leader = LeaderLoop(leadership, lambda lease: lead(bus, settings, leadership, writes, lease))
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
            log.warning("guardian streams not ready", error=str(fault))
            await asyncio.sleep(0.25)  # JetStream is starting, and publishes nothing when it is ready
        else:
            return


async def lead(
    bus: Bus, settings: GuardianSettings, leadership: Leadership, writes: CommandAudit, lease: GuardianLease
) -> None:
    """Run the loops and handlers of the leader, until cancelled."""
    logs = GuardianLogs(bus)
    trajectories = TrajectoryStore(logs, guardian_epoch=lease.epoch, policy=_policy(settings), now=bus.now)
    executor = DecisionExecutor(bus, trajectories)
    trajectories.on_change(executor.queue_pending)
    silence = SilenceWatch(bus, trajectories, settings)
    follower = LogFollower(bus, trajectories, silence, lambda: leadership.surely_leading)
    service = Service(NAME, bus, drain_s=settings.drain_s, writes=writes)
    service.handles(Steer, SteeringRequests(bus, trajectories, logs).steer)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervise("decision executor", executor.run))
        tasks.create_task(supervise("silence watch", silence.run))
        for name, consumer in follower.consumers().items():
            tasks.create_task(supervise(name, consumer.run))
        async with service:
            await asyncio.get_running_loop().create_future()  # until cancelled


def _policy(settings: GuardianSettings) -> Policy:
    return Policy(
        repeat_threshold=settings.repeat_threshold,
        ignored_after=settings.ignored_after,
        most_interventions=settings.most_interventions,
        message_ttl_s=settings.message_ttl_s,
    )
