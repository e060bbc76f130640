"""Turns the body of a create into the settings of a sandbox, with Daytona's defaults."""

import hashlib
from dataclasses import replace

from daytona_api_client import CreateSandbox
from daytona_api_client.models.build_info import BuildInfo

from muster.daytona_double.refusals import bad_request
from muster.daytona_double.requests import DoubleState
from muster.daytona_double.sandbox_record import DoubleSandbox, SandboxSettings

AUTO_STOP_MINUTES, AUTO_ARCHIVE_MINUTES, NO_AUTO_DELETE = 15, 10_080, -1
CPU, MEMORY_GIB, DISK_GIB = 1, 1, 3


def chosen_settings(body: CreateSandbox, state: DoubleState) -> SandboxSettings:
    """Return the settings that a create asks for. Raises `Refusal` (400) for resources beside a snapshot."""
    if body.build_info is None and (body.cpu or body.memory or body.disk or body.gpu):
        raise bad_request("Cannot specify Sandbox resources when using a snapshot")
    return SandboxSettings(
        name=body.name or "",
        snapshot=None if body.build_info else body.snapshot or state.snapshots.all[0].name,
        user=body.user or "daytona",
        env=dict(body.env or {}),
        labels=dict(body.labels or {}),
        public=bool(body.public),
        target=body.target or "us",
        cpu=body.cpu or CPU,
        gpu=body.gpu or 0,
        memory=body.memory or MEMORY_GIB,
        disk=body.disk or DISK_GIB,
        auto_stop_interval=_or(body.auto_stop_interval, AUTO_STOP_MINUTES),
        auto_pause_interval=_or(body.auto_pause_interval, 0),
        auto_archive_interval=body.auto_archive_interval or AUTO_ARCHIVE_MINUTES,
        auto_delete_interval=_or(body.auto_delete_interval, NO_AUTO_DELETE),
        ttl_minutes=_or(body.ttl_minutes, 0),
        network_block_all=bool(body.network_block_all),
        network_allow_list=body.network_allow_list,
        domain_allow_list=body.domain_allow_list,
        volumes=list(body.volumes or []),
        build_info=_build(body, state),
    )


def forked_settings(record: DoubleSandbox, name: str | None) -> SandboxSettings:
    """Return the settings of a fork: those of the other sandbox, under another name."""
    chosen = record.settings
    return replace(chosen, name=name or "", env=dict(chosen.env), labels=dict(chosen.labels))


def _build(body: CreateSandbox, state: DoubleState) -> BuildInfo | None:
    if body.build_info is None:
        return None
    content = body.build_info.dockerfile_content or ""
    now = state.settings.clock()
    return BuildInfo(
        dockerfile_content=content,
        context_hashes=body.build_info.context_hashes,
        created_at=now,
        updated_at=now,
        snapshot_ref=f"daytona-{hashlib.sha256(content.encode()).hexdigest()[:24]}",
    )


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
