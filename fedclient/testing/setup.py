"""From nothing to a federation that can start: a first head, and devices that are invited."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fedclient import runtime
from fedclient.crypto.keys import SigningKey
from fedclient.device import enrolment, folder
from fedclient.gateway import releases
from fedclient.gateway.desk import Desk
from fedclient.gateway.enrolment import invite
from fedclient.scheduler.schedule import Policy
from fedclient.uplink import DeviceUplink
from fedclient.values import HeadVersion, Plan
from fedclient.wire.invitation import encode_invitation

# Trains at once, whatever else the machine does: for demonstrations and tests only.
EAGER = Policy(
    min_battery_percent=None,
    pause_on_under_voltage=False,
    pause_on_throttling=False,
    pause_temp_c=None,
    max_cpu_percent=None,
    max_pressure_percent=None,
    min_free_memory_mib=None,
    min_free_disk_mib=None,
    min_input_idle_s=None,
    networks=(),
    allow_metered=True,
    min_spacing_s=0.0,
    dwell_s=0.0,
    poll_s=1.0,
    daily_training_s=None,
)
_INVITATION_S = 3600


def publish(desk: Desk, model: bytes, plan: Plan) -> HeadVersion:
    """Begin a generation with the weights that `model` comes with."""
    loaded = runtime.load(model)
    content = releases.Content(
        model=model,
        head=loaded.get_weights(),
        tensors=loaded.tensors,
        labels=(),
        plan=plan,
        takes=frozenset(loaded.hyper_parameters),
    )
    return releases.publish(desk, content)


def join(desk: Desk, state: Path) -> folder.DeviceFolder:
    """Make a device's folder, with a key and an invitation: its agent will ask the gateway by itself."""
    made = folder.create(state)
    invitation = invite(desk, os.urandom(16), int(time.time()) + _INVITATION_S)
    uplink = DeviceUplink(
        federation=invitation.federation,
        key=SigningKey.load(made.key),
        gateway_sealing_key=invitation.sealing_key,
    )
    enrolment.save(made.enrolment, encode_invitation(invitation), uplink.enrolment(invitation.token))
    return made
