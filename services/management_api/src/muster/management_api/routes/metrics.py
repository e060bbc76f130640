"""`GET /metrics` for Prometheus, and who counts: outermost, so that refusals at the door count too."""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from muster.common.bus.service import VERSION
from muster.management_api.adapters.neighbours import Neighbours
from muster.management_api.routes.operation import Asked, Operation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT = "text/plain"
_FORMAT = f"{TEXT}; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class _Answers:
    """Answers of one route with one status."""

    def __init__(self) -> None:
        self.within = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        self.within[bisect_left(_BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics(Collector):
    """What is counted. Labels are routes and statuses, never ids: their number is bounded by the code.

    Counted in plain numbers, since one loop does it all; prometheus_client takes a lock for each.
    """

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._answers = defaultdict[tuple[str, int], _Answers](_Answers)
        self._in_flight = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def operations(self) -> Iterable[Operation]:
        """The table."""
        yield Operation("GET", "/metrics", self.metrics, "get-metrics", "Numbers for Prometheus", reply=TEXT)

    async def metrics(self, asked: Asked[None, None]) -> Response:
        """Requests by route and status, latencies, the process; in Prometheus' text format."""
        del asked
        return Response(generate_latest(self._registry), headers={"Content-Type": _FORMAT})

    def begun(self) -> None:
        """A request has come in."""
        self._in_flight += 1

    def ended(self) -> None:
        """It is over."""
        self._in_flight -= 1

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Its answer has begun."""
        self._answers[route, status].count(seconds)

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client, when it is asked."""
        requests = CounterMetricFamily("muster_http_requests", "HTTP requests answered.", labels=("route", "status"))
        by_route = defaultdict[str, list[_Answers]](list)
        for (route, status), answers in self._answers.items():
            requests.add_metric((route, str(status)), sum(answers.within))
            by_route[route].append(answers)
        yield requests
        says = "From a request's head to its answer's."
        latency = HistogramMetricFamily("muster_http_request_seconds", says, labels=("route",))
        for route, each in by_route.items():
            counts = accumulate(map(sum, zip(*(answers.within for answers in each), strict=True)))
            buckets = list(zip((*map(str, _BUCKETS), "+Inf"), counts, strict=True))
            latency.add_metric((route,), buckets, sum(answers.seconds for answers in each))
        yield latency
        says = "HTTP requests under way, open feeds included."
        yield GaugeMetricFamily("muster_http_requests_in_flight", says, value=self._in_flight)
        says = "1 while there is a connection to NATS."
        yield GaugeMetricFamily("muster_nats_connected", says, value=float(self._neighbours.reachable))
        release = GaugeMetricFamily("muster_build", "The running release.", labels=("version",))
        release.add_metric((VERSION,), 1)
        yield release


class Measured:
    """Wraps the door."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        now = asyncio.get_running_loop().time
        began = now()

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "name", "none")
                self._metrics.answered(route, message["status"], now() - began)
            await send(message)

        self._metrics.begun()
        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.ended()
