"""Handles the requests to deliver results: commits a result, pushes it, and opens a pull request.

Every step finds what an earlier try has done, so a request may be repeated after a crash at any line, and at the same
time by several gateways.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from muster.common.contracts.gateway import Delivered, DeliverResult
from muster.common.contracts.task_spec import Deliver, Repo
from muster.common.faults import InvalidMessage
from muster.common.withheld_diffs import withheld_secrets
from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.forges import ForgeClient, PullRequest, RequestToOpen
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules, HostAccess
from muster.sandbox_gateway.repositories.adapters.local_pushes import push_locally
from muster.sandbox_gateway.repositories.adapters.pushes import ResultCommit, ResultCommits
from muster.sandbox_gateway.repositories.domain.addresses import RemoteAddress
from muster.sandbox_gateway.repositories.domain.deliveries import (
    DELIVER_FIELD,
    marker,
    pull_request_text,
    pull_request_title,
)


class Deliveries:
    """Delivers accepted results of tasks to the repositories of the tasks."""

    def __init__(
        self,
        allowed: AllowedRepositories,
        hosts: GitHostRules,
        commits: ResultCommits,
        *,
        deadline_s: float,
        into_local: bool = True,
    ) -> None:
        """Set the rules and the deadline of a push. `into_local` permits new branches in local repositories."""
        self._allowed, self._hosts, self._commits, self._deadline_s = allowed, hosts, commits, deadline_s
        self._into_local = into_local
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def check(self, repo: Repo, deliver: Deliver) -> None:
        """Raise `InvalidMessage` if results can never be delivered to this repository. Asks no host."""
        if not deliver.push:
            return
        found = self._allowed.resolve(repo)
        if found.path is not None:
            self._check_local(found.path, deliver)
        elif found.remote is not None:
            access = self._access(found.remote)
            if deliver.pull_request:
                _forge(found.remote, access)

    async def deliver(self, result: DeliverResult) -> Delivered:
        """Deliver a result, and return its commit and the address of its pull request.

        Raises `InvalidMessage` or `Forbidden` if it can never be delivered, and `Unavailable` if it may be later.
        """
        _check_diff(result.diff)
        async with self._one_at_a_time(result.task_id):
            repository = await asyncio.to_thread(self._allowed.resolve, result.repo)
            if repository.path is not None:
                self._check_local(repository.path, result.deliver)
                return Delivered(commit=await push_locally(result, repository.path))
            assert repository.remote is not None
            return await self._deliver_to(repository.remote, result)

    async def _deliver_to(self, address: RemoteAddress, result: DeliverResult) -> Delivered:
        access = await asyncio.to_thread(self._access, address)
        forge = _forge(address, access) if result.deliver.pull_request else None
        async with self._commits.committed(result, address) as made:
            wanted = _wanted(result, made)
            found = await forge.find(wanted) if forge else None
            # A request that is closed or merged was opened by an earlier try. Its branch may be deleted already.
            if found is None or found.is_open:
                git = await self._hosts.git(address, access, deadline_s=self._deadline_s)
                await self._commits.push(made, result.branch, address, git)
            if forge and found is None:
                found = await forge.open(wanted)
            return Delivered(commit=made.commit, url=_url(found))

    def _check_local(self, path: Path, deliver: Deliver) -> None:
        if not self._into_local:
            raise InvalidMessage(
                "results are not delivered to local repositories (MUSTER_REPO_PUSH=false); "
                "`muster task get TASK --diff` prints the result",
                field=DELIVER_FIELD,
            )
        if deliver.pull_request:
            raise InvalidMessage(
                f"the local repository {path} has no pull requests; let the result be pushed to a branch instead",
                field=f"{DELIVER_FIELD}.pull_request",
            )

    def _access(self, address: RemoteAddress) -> HostAccess:
        access = self._hosts.access(address)
        if access.listed is None or not access.has_credential:
            raise InvalidMessage(
                f"git.toml has no credential for {address.host_and_port}/{address.name}, so results cannot be pushed; "
                "an operator can add one",
                field=DELIVER_FIELD,
            )
        if not access.listed.entry.push:
            raise InvalidMessage(
                f"git.toml does not allow pushes to {access.listed.name} (push = false)", field=DELIVER_FIELD
            )
        return access

    @asynccontextmanager
    async def _one_at_a_time(self, task_id: str) -> AsyncGenerator[None]:
        lock = self._locks.setdefault(task_id, asyncio.Lock())
        async with lock:
            yield


def _check_diff(diff: str) -> None:
    secrets = withheld_secrets(diff)
    if secrets is not None:
        raise InvalidMessage(
            f"the diff contained secrets of the gateway ({secrets[:200]}), which were replaced before it was stored, "
            "so it is not the code that was tested; remove the secrets from the repository and submit the task again",
            field=DELIVER_FIELD,
        )


def _forge(address: RemoteAddress, access: HostAccess) -> ForgeClient:
    if access.listed is None or access.listed.forge is None or not access.token:
        raise InvalidMessage(
            f"a pull request on {address.host} needs a token and the forge (github or gitlab) in git.toml, and a "
            "repository with an https:// URL",
            field=f"{DELIVER_FIELD}.pull_request",
        )
    return ForgeClient(access.listed.forge, access.listed, access.token, address)


def _wanted(result: DeliverResult, made: ResultCommit) -> RequestToOpen:
    return RequestToOpen(
        result.branch, made.target, pull_request_title(result), pull_request_text(result), marker(result.task_id)
    )


def _url(found: PullRequest | None) -> str | None:
    return found.url if found else None
