"""Wiring of the feature `results`: adds its request handler to the NATS service, and makes its loops."""

from collections.abc import Iterable

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.database.notices import ChangeNotices
from muster.agent_manager.loops import Loop, reconcile_loop
from muster.agent_manager.results.handlers.deliveries import DeliveryRequests
from muster.agent_manager.results.reconcilers.deliveries import ResultDelivery
from muster.agent_manager.results.reconcilers.validation import ResultValidation
from muster.agent_manager.settings import ManagerSettings
from muster.agent_manager.tasks.adapters.sandbox_gateway import SandboxGatewayClient
from muster.common.bus.connection import Bus
from muster.common.bus.service import Service
from muster.common.contracts.tasks import DeliverTask


def answers(service: Service, bus: Bus, database: ManagerDatabase) -> None:
    """Add the handler of requests to deliver results to the NATS service."""
    service.handles(DeliverTask, DeliveryRequests(database, SandboxGatewayClient(bus), now=bus.now).deliver)


def loops(bus: Bus, database: ManagerDatabase, settings: ManagerSettings, notices: ChangeNotices) -> Iterable[Loop]:
    """Return the loops that validate results of workers and deliver accepted results."""
    validation = ResultValidation(database, SandboxGatewayClient(bus), settings, now=bus.now)
    yield reconcile_loop("validation", validation, str, notices, settings)
    deliveries = ResultDelivery(database, SandboxGatewayClient(bus), now=bus.now)
    yield reconcile_loop("delivery", deliveries, str, notices, settings)
