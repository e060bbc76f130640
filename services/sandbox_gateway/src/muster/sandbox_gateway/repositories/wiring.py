"""Makes the parts of the feature `repositories` from the gateway's settings."""

import os
from typing import NamedTuple

from muster.sandbox_gateway.repositories.adapters.allowed import AllowedRepositories
from muster.sandbox_gateway.repositories.adapters.copies import RepositoryCopies
from muster.sandbox_gateway.repositories.adapters.git_host_rules import GitHostRules
from muster.sandbox_gateway.repositories.adapters.mirror_cache import CacheLimits, MirrorCache
from muster.sandbox_gateway.repositories.adapters.pushes import ResultCommits
from muster.sandbox_gateway.repositories.handlers.deliveries import Deliveries
from muster.sandbox_gateway.settings import GatewaySettings


class Repositories(NamedTuple):
    """The parts of this feature: one copies repositories for sandboxes, the other one delivers results to them."""

    copies: RepositoryCopies
    deliveries: Deliveries


def repositories(settings: GatewaySettings) -> Repositories:
    """Return the parts that copy repositories and deliver results."""
    hosts = GitHostRules(settings.git_toml, os.environ, unlisted=settings.git_unlisted_hosts)
    limits = CacheLimits(
        repository_bytes=settings.git_max_bytes,
        total_bytes=settings.git_cache_max_bytes,
        deadline_s=settings.git_deadline_s,
        fresh_s=settings.git_fresh_s,
    )
    cache = MirrorCache(settings.data_dir.resolve() / "repositories", hosts, limits)
    allowed = AllowedRepositories(settings.repos, hosts, private=settings.private)
    deliveries = Deliveries(
        allowed, hosts, ResultCommits(cache), deadline_s=settings.git_deadline_s, into_local=settings.repo_push
    )
    return Repositories(RepositoryCopies(allowed, cache), deliveries)
