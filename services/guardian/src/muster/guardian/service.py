"""Wires the guardian: everyone answers reports, one leads."""

import asyncio

import structlog

from muster.common.bus.audit import AuditTrail
from muster.common.bus.connection import Bus, open_bus
from muster.common.bus.service import Service
from muster.common.bus.streams import JetStreamRefusal, ensure_stream
from muster.common.bus.writes import Writes
from muster.common.contracts.guardian import GetReport, Steer
from muster.common.faults import TimedOut, Unavailable
from muster.common.supervision import supervise, until_told_to_stop
from muster.guardian.domain.inputs import Policy
from muster.guardian.handlers.reports import Reports
from muster.guardian.handlers.steering import Steering
from muster.guardian.reconcilers.acting import Acting
from muster.guardian.reconcilers.silence import SilenceWatch
from muster.guardian.reconcilers.watching import LogWatch
from muster.guardian.settings import GuardianSettings
from muster.guardian.store.courses import Courses
from muster.guardian.store.leases import Leadership, Lease
from muster.guardian.store.logs import GUARDIAN, Logs

log = structlog.get_logger()

NAME = "guardian"


async def run(settings: GuardianSettings) -> None:
    """Until told to stop."""
    async with (
        open_bus(
            settings.nats_url.get_secret_value(), NAME, credentials=settings.nats_credentials, tls=settings.nats_tls
        ) as bus,
        asyncio.TaskGroup() as tasks,
    ):
        leadership = Leadership(bus, ttl_s=settings.lease_ttl_s)
        await _ensure(bus, leadership, settings)
        trail, service = AuditTrail(bus), Service(NAME, bus, drain_s=settings.drain_s)
        service.handles(GetReport, Reports(bus, Logs(bus)).get)
        async with service:
            term = Term(bus, settings, leadership, Writes(bus, NAME, trail))
            election = tasks.create_task(supervise("election", term.run))
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
        except (Unavailable, TimedOut, JetStreamRefusal) as away:
            log.warning("streams not ready", error=str(away))
            await asyncio.sleep(0.25)  # JetStream is starting; nothing tells when
        else:
            return


class Term:
    """Waits for the lease, leads while it lasts, and again."""

    def __init__(self, bus: Bus, settings: GuardianSettings, leadership: Leadership, writes: Writes) -> None:
        self._bus, self._settings, self._leadership, self._writes = bus, settings, leadership, writes

    async def run(self) -> None:
        """For ever."""
        while True:
            lease = await self._leadership.acquired()
            log.info("leading", guardian_epoch=lease.epoch)
            try:
                async with asyncio.TaskGroup() as tasks:
                    leading = tasks.create_task(self._lead(lease))
                    await self._leadership.lost(lease)
                    leading.cancel()
                log.warning("no longer leading", guardian_epoch=lease.epoch)
            finally:
                if self._leadership.sure:
                    await self._leadership.give_back(lease)

    async def _lead(self, lease: Lease) -> None:
        bus, settings = self._bus, self._settings
        logs = Logs(bus)
        courses = Courses(logs, guardian_epoch=lease.epoch, policy=_policy(settings), now=bus.now)
        acting = Acting(bus, courses)
        courses.on_change(acting.consider)
        silence = SilenceWatch(bus, courses, settings)
        watch = LogWatch(bus, courses, silence, lambda: self._leadership.sure)
        doors = Service(NAME, bus, drain_s=settings.drain_s, writes=self._writes)
        doors.handles(Steer, Steering(bus, courses, logs).steer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervise("acting", acting.run))
            tasks.create_task(supervise("silence", silence.run))
            for name, consumer in watch.consumers().items():
                tasks.create_task(supervise(name, consumer.run))
            async with doors:
                await asyncio.get_running_loop().create_future()  # until cancelled


def _policy(settings: GuardianSettings) -> Policy:
    return Policy(
        repeat_threshold=settings.repeat_threshold,
        ignored_after=settings.ignored_after,
        most_interventions=settings.most_interventions,
        message_ttl_s=settings.message_ttl_s,
    )
