"""The route `GET /metrics`, which returns the API's metrics in the text format of Prometheus."""

from typing import Annotated

from fastapi import Response
from fastapi.responses import PlainTextResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from muster.common.bus.service import VERSION
from muster.management_api.access.domain.principals import Principal
from muster.management_api.access.routes.requires import requires
from muster.management_api.http.application_parts import part
from muster.management_api.http.route import routes_of
from muster.management_api.service_client import ServiceClient

router = routes_of("", "health")


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(
    _: Annotated[Principal, requires("viewer", "metrics:read")],
    registry: Annotated[CollectorRegistry, part(CollectorRegistry)],
) -> Response:
    """Return the API's metrics in the text format of Prometheus: counts of requests, latencies, and process metrics."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def registry_of(services: ServiceClient) -> CollectorRegistry:
    """Return the metrics registry with metrics of the process, its release and its connection to NATS."""
    disable_created_metrics()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    connected = Gauge("muster_nats_connected", "1 while the API is connected to NATS.", registry=registry)
    connected.set_function(lambda: float(services.reachable))
    Gauge("muster_build", "The release of the running API.", ("version",), registry=registry).labels(VERSION).set(1)
    return registry
