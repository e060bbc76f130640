"""Counts the HTTP requests of each route, and measures the time until their responses begin."""

import asyncio
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muster.management_api.http.middleware.asgi import begins
from muster.management_api.http.middleware.audit_log import action

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class RequestMetrics:
    """Middleware that counts and times requests. The labels are only routes and statuses, whose number is limited."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        named = ("route", "status")
        self._answers = Counter("muster_http_requests", "Answered HTTP requests.", named, registry=registry)
        says = "Seconds from the head of a request to the head of its response."
        self._seconds = Histogram("muster_http_request_seconds", says, ("route",), buckets=_BUCKETS, registry=registry)
        says = "HTTP requests under way, including open feeds."
        self._of_route = cache(self._seconds.labels)
        self._of_answer = cache(self._answers.labels)
        self._in_flight = 0
        Gauge("muster_http_requests_in_flight", says, registry=registry).set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and count and time it when its response begins."""
        now = asyncio.get_running_loop().time
        began = now()

        async def counted(message: Message) -> None:
            if begins(message):
                route = action(scope)
                self._of_answer(route, str(message["status"])).inc()
                self._of_route(route).observe(now() - began)
            await send(message)

        self._in_flight += 1
        try:
            await self._app(scope, receive, counted)
        finally:
            self._in_flight -= 1
