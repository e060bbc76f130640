"""Translates between the processes of the provider interface and the records and limits of the shim."""

import msgspec

from muster.common.contracts.packages import Resources
from muster.sandbox_gateway.providers.interface import ProcessState
from muster.shim.client import Limits, ProcessRecord


def state_of(record: ProcessRecord) -> ProcessState:
    """Return the state of a process from the shim's record of it."""
    code = record.exit_code if record.exit_code is not None or record.signal is None else 128 + record.signal
    ended_at = record.ended_at or record.started_at
    return ProcessState(
        running=record.state == "running",
        pid=record.pid,
        exit_code=code,
        error=record.error,
        isolation=record.isolation,
        limits=Resources(**msgspec.structs.asdict(record.bounds)) if record.bounds else None,
        limited_by=record.limits,
        exceeded=record.exceeded,
        interrupted=record.stopped_by in ("shim", "lease"),
        timed_out=record.stopped_by == "timeout",
        seconds=(ended_at - record.started_at).total_seconds(),
        start_s=record.start_s,
        private_bytes=record.private_bytes,
        not_forked=record.not_forked,
    )


def limits_of(resources: Resources) -> Limits:
    """Return the shim's limits for the resources of a process."""
    return Limits(**msgspec.structs.asdict(resources))
