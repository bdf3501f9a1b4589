"""The kind of network behind the default route, and who pays for it."""

import pytest

from fedclient.scheduler import probe_network

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"
NET = "/sys/class/net"
ZERO = "0" * 32


def route(*found, mask: str = "00000000", flags: str = "0003") -> str:
    lines = [
        f"{name}\t00000000\t0102A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0" for name, metric in found
    ]
    return "\n".join([HEAD, *lines, "eth0\t0002A8C0\t00000000\t0001\t0\t0\t50\t00FFFFFF\t0\t0\t0"])


def route_6(name: str, metric: str = "00000400", flags: str = "00000003") -> str:
    return f"{ZERO} 00 {ZERO} 00 fe80{'0' * 27}1 {metric} 00000001 00000000 {flags} {name:>8}"


def card(root, name: str, driver: str = "bcmgenet") -> None:
    root.plant({"uevent": f"INTERFACE={name}", "device/uevent": f"DRIVER={driver}"}, f"{NET}/{name}")


def wifi(root, name: str = "wlan0") -> None:
    root.plant(
        {"uevent": f"DEVTYPE=wlan\nINTERFACE={name}", "device/uevent": "DRIVER=brcmfmac"}, f"{NET}/{name}"
    )
    root.empty(f"{NET}/{name}/wireless")


def read(root):
    return probe_network.read(root.tree, root.commands)


def test_ethernet_and_wifi(root) -> None:
    card(root, "eth0")
    wifi(root)
    root.plant({"/proc/net/route": route(("eth0", 100))})
    network, metered = read(root)
    assert (network.value, network.source) == ("ethernet", "/proc/net/route: default route by eth0")
    assert (metered.value, metered.source) == (False, "guessed from ethernet")
    root.plant({"/proc/net/route": route(("wlan0", 600))})
    assert read(root)[0].value == "wifi"


def test_of_two_default_routes_the_lowest_metric_counts(root) -> None:
    card(root, "eth0")
    wifi(root)
    root.plant({"/proc/net/route": route(("wlan0", 600), ("eth0", 100))})
    assert read(root)[0].value == "ethernet"
    root.plant({"/proc/net/route": route(("wlan0", 50), ("eth0", 100))})
    assert read(root)[0].value == "wifi"


def test_of_equal_routes_and_of_both_protocols_the_dearest_counts(root) -> None:
    card(root, "eth0")
    root.plant({"uevent": "DEVTYPE=wwan"}, f"{NET}/wwan0")
    root.plant({"/proc/net/route": route(("eth0", 0), ("wwan0", 0))})
    assert read(root)[0].value == "cellular"
    root.plant({"/proc/net/route": route(("eth0", 0)), "/proc/net/ipv6_route": route_6("wwan0")})
    network, metered = read(root)
    assert (network.value, metered.value) == ("cellular", True)
    assert network.source == "/proc/net/ipv6_route: default route by wwan0"


def test_ipv6_alone(root) -> None:
    card(root, "end0")
    dead = route_6("lo", "ffffffff", "00200200")
    root.plant({"/proc/net/route": HEAD, "/proc/net/ipv6_route": f"{dead}\n{route_6('end0')}"})
    assert read(root)[0].value == "ethernet"


def test_no_default_route_is_no_network(root) -> None:
    root.plant({"/proc/net/route": HEAD, "/proc/net/ipv6_route": route_6("lo", "ffffffff", "00200200")})
    network, metered = read(root)
    assert (network.value, metered.value, metered.reason) == ("none", None, "there is no network")
    root.plant({"/proc/net/route": b"", "/proc/net/ipv6_route": None})  # as without any device
    assert read(root)[0].value == "none"


def test_half_of_the_internet_and_what_is_down_are_no_default_route(root) -> None:
    card(root, "eth0")
    root.plant({"/proc/net/route": route(("tun0", 0), mask="00000080")})
    assert read(root)[0].value == "none"
    root.plant({"/proc/net/route": route(("eth0", 0), flags="0002")})
    assert read(root)[0].value == "none"
    root.plant({"/proc/net/route": route(("eth0", 0), flags="0201")})
    assert read(root)[0].value == "none"


def test_without_proc_nobody_knows(root) -> None:
    network, metered = read(root)
    assert network.reason == metered.reason == "there is no /proc/net/route"
    root.empty("/proc/net/route")
    assert read(root)[0].reason == "/proc/net/route: Is a directory"


@pytest.mark.parametrize("driver", ["rndis_host", "cdc_ether", "ipheth"])
def test_a_phone_on_usb_is_metered(root, driver: str) -> None:
    card(root, "enx0aa1b2c3d4e5", driver)
    root.plant({"/proc/net/route": route(("enx0aa1b2c3d4e5", 100))})
    network, metered = read(root)
    assert (network.value, metered.value, metered.source) == ("tether", True, "guessed from tether")


@pytest.mark.parametrize(
    ("name", "uevent", "driver", "kind"),
    [
        ("usb0", "", "", "tether"),
        ("bnep0", "DEVTYPE=bluetooth", "", "tether"),
        ("wwan0", "", "", "cellular"),
        ("ppp0", "DEVTYPE=ppp", "", "cellular"),
        ("wwp1s0u1", "DEVTYPE=wwan", "qmi_wwan", "cellular"),
        ("enp0s2u1i2", "", "cdc_mbim", "cellular"),
        ("wg0", "DEVTYPE=wireguard", "", "other"),
        ("tun0", "INTERFACE=tun0", "", "other"),
        ("eth1", "INTERFACE=eth1", "lan78xx", "ethernet"),
        ("eth0", "INTERFACE=eth0", "", "ethernet"),  # a container's
    ],
)
def test_kinds(root, name: str, uevent: str, driver: str, kind: str) -> None:
    root.plant({"uevent": uevent}, f"{NET}/{name}")
    if driver:
        root.plant({"device/uevent": f"DRIVER={driver}"}, f"{NET}/{name}")
    root.plant({"/proc/net/route": route((name, 0))})
    assert read(root)[0].value == kind


def test_a_bridge_or_vlan_is_what_it_stands_on(root) -> None:
    card(root, "eth0")
    card(root, "usb0", "rndis_host")
    root.plant({"uevent": "DEVTYPE=bridge"}, f"{NET}/br0")
    root.empty(f"{NET}/br0/lower_eth0")
    root.plant({"uevent": "DEVTYPE=vlan"}, f"{NET}/br0.7")
    root.empty(f"{NET}/br0.7/lower_br0")
    root.plant({"/proc/net/route": route(("br0.7", 0))})
    assert read(root)[0].value == "ethernet"
    root.empty(f"{NET}/br0/lower_usb0")
    assert read(root)[0].value == "tether"


def test_interfaces_that_stand_on_each_other(root) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        root.plant({"uevent": "DEVTYPE=vlan"}, f"{NET}/{one}")
        root.empty(f"{NET}/{one}/lower_{other}")
    root.plant({"/proc/net/route": route(("a", 0))})
    assert read(root)[0].value == "other"


@pytest.mark.parametrize(
    ("said", "kind", "metered"),
    [
        ("u 1", "eth0", True),
        ("u 2", "usb0", False),  # the owner said so
        ("u 3", "eth0", True),
        ("u 4", "eth0", False),
        ("u 4", "usb0", True),  # a guess is no better than ours
        ("u 0", "eth0", False),
        ("u 0", "usb0", True),
    ],
)
def test_networkmanager_knows_who_pays(root, said: str, kind: str, metered: bool) -> None:
    card(root, "eth0")
    card(root, "usb0", "rndis_host")
    root.plant({"/proc/net/route": route((kind, 0)), "commands/busctl-metered": said})
    assert read(root)[1].value is metered


@pytest.mark.parametrize("said", ["", "u 9", "s yes", b"\xff"])
def test_an_answer_that_is_none_is_unknown(root, said) -> None:
    card(root, "eth0")
    root.plant({"/proc/net/route": route(("eth0", 0)), "commands/busctl-metered": said})
    assert read(root)[1].value is None


def test_names_that_are_paths_are_nobodys(root) -> None:
    root.plant({"/proc/net/route": route(("../../eth0", 0), ("..", 0))})
    assert read(root)[0].value == "none"
