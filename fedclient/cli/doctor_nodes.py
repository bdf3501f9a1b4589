"""Checks of the microcontrollers that send samples to this device: their secrets, and their own broker."""

from __future__ import annotations

from fedclient.cli import broker as brokers
from fedclient.cli.doctor_device import attempt, client_id
from fedclient.cli.doctor_finding import Finding, Patient, Verdict, fail, ok, warning
from fedclient.client.nodes import refuse_federation
from fedclient.errors import ConfigError, FedClientError
from fedclient.limits import MAX_NODE_PACKET_BYTES
from fedclient.nodes.registry import Registry
from fedclient.transport.settings import is_loopback

_ENABLE = "set [nodes] enabled = true to listen to them"


def secrets(patient: Patient) -> Finding:
    """Tell whether there are nodes, and whether their secrets are whole and nobody else's business."""
    path = patient.folder.nodes
    try:
        nodes = Registry(path).load().values()
    except FedClientError as error:
        return fail(str(error), "until then no node is listened to")
    active = sum(not node.revoked for node in nodes)
    found = f"{active} with a secret, {len(nodes) - active} revoked" if nodes else "none"
    if not patient.config.nodes.enabled:
        return warning(f"{found}, and nobody listens", _ENABLE) if active else ok("none are listened to")
    if not active:
        return warning(found, f"{patient.command('nodes add NODE')} makes a secret for one")
    return ok(f"{found} ({path})")


def broker(patient: Patient) -> Finding:
    """Connect to the nodes' broker as the agent does, if it is another one than the federation's."""
    own = patient.config.nodes
    if not own.enabled:
        return ok("not needed: [nodes] enabled is false")
    try:
        refuse_federation(patient.folder, patient.config)
        transport = brokers.nodes_opener(patient.config, MAX_NODE_PACKET_BYTES)(client_id(patient))
        found = attempt(transport, own.broker)
    except ConfigError as error:
        return fail(str(error), "see [nodes] in the settings")
    if found.verdict is Verdict.OK and not (own.tls or is_loopback(own.host)):
        return warning(
            f"{found.found}: whoever is on that network can read the samples", "set [nodes] tls = true"
        )
    return found
