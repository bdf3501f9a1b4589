"""Which board this is: the device tree's words, or the firmware's of a PC."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from fedclient.scheduler.probe_files import Tree, Unreadable

DEVICE_TREES = ("/proc/device-tree", "/sys/firmware/devicetree/base")  # the first is a link to the second
PC_MODEL = "/sys/class/dmi/id/product_name"
MACHINE = "/proc/sys/kernel/arch"
RELEASE = "/etc/nv_tegra_release"
_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a board says of itself; empty where it does not."""

    model: str = ""  # for people, with the revision: "Raspberry Pi 4 Model B Rev 1.4"
    compatible: tuple[str, ...] = ()  # for programs, most specific first: "raspberrypi,4-model-b"
    machine: str = ""  # of the kernel: "aarch64"
    l4t: str = ""  # Jetson's board support package: "35.2.1"

    @property
    def is_raspberry_pi(self) -> bool:
        return any(one.startswith("raspberrypi,") for one in self.compatible)

    @property
    def is_raspberry_pi_zero(self) -> bool:
        """Whether it is one of the family that has no low-voltage detector."""
        return self.model.startswith("Raspberry Pi Zero")


def identify(tree: Tree) -> Identity:
    """Read all that is there; nothing of it changes while a board runs."""
    return Identity(
        model=_first(tree, [f"{folder}/model" for folder in DEVICE_TREES] + [PC_MODEL]),
        compatible=_compatible(tree),
        machine=os.uname().machine if tree.live else tree.word_or(MACHINE, ""),
        l4t=_l4t(tree),
    )


def _first(tree: Tree, paths: list[str]) -> str:
    return next(filter(None, (tree.word_or(path, "") for path in paths)), "")


def _compatible(tree: Tree) -> tuple[str, ...]:
    """Split the NUL-separated list."""
    for folder in DEVICE_TREES:
        try:
            words = tree.text(f"{folder}/compatible").split("\0")
        except Unreadable:
            continue
        return tuple(one for one in words if one and one.isprintable())
    return ()


def _l4t(tree: Tree) -> str:
    try:
        found = _RELEASE.match(tree.text(RELEASE))
    except Unreadable:
        return ""
    return ".".join(found.groups()) if found else ""
