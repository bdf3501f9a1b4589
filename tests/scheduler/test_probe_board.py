"""Who a board says it is."""

import pytest

from fedclient.scheduler.probe_board import Identity, identify


def test_strings_of_the_device_tree_end_with_nul(root) -> None:
    root.plant(
        {
            "proc/device-tree/model": b"Raspberry Pi 4 Model B Rev 1.4\0",
            "proc/device-tree/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0",
            "proc/sys/kernel/arch": "aarch64",
        }
    )
    found = identify(root.tree)
    assert found == Identity(
        model="Raspberry Pi 4 Model B Rev 1.4",
        compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
        machine="aarch64",
    )
    assert found.is_raspberry_pi
    assert not found.is_raspberry_pi_zero


def test_the_other_folder_of_the_device_tree_does_too(root) -> None:
    root.plant({"sys/firmware/devicetree/base/model": b"Raspberry Pi Zero 2 W Rev 1.0\0"})
    assert identify(root.tree).is_raspberry_pi_zero


def test_a_jetson_has_a_release(root) -> None:
    release = "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref, EABI: aarch64"
    root.plant({"etc/nv_tegra_release": release, "proc/device-tree/compatible": b"nvidia,tegra234\0"})
    found = identify(root.tree)
    assert (found.l4t, found.is_raspberry_pi) == ("35.2.1", False)


def test_a_pc_has_the_words_of_its_firmware(root) -> None:
    root.plant({"sys/class/dmi/id/product_name": "NUC7i5BNH"})
    assert identify(root.tree).model == "NUC7i5BNH"


@pytest.mark.parametrize("junk", [b"", b"\0\0", b"\xff\xff", b"\x1b[2J"])
def test_junk_is_nothing(root, junk) -> None:
    names = ("model", "compatible")
    root.plant({f"proc/device-tree/{name}": junk for name in names} | {"etc/nv_tegra_release": junk})
    assert identify(root.tree) == Identity()
