"""A Pico W or an ESP32 as a node, nothing wired: the chip's thermometer, and its button for the label.

README.md says what to copy beside it.  Hold the button while a finger warms the chip: that sample is
labelled `touched`, any other `free`.  Once the gateway has trained, the board says what it thinks.
"""

import json
import time
from array import array

import network

from fednode.mqtt import MQTTClient
from fednode.node import Node

READINGS = 16  # in a sample
EVERY_MS = 250


def read(path):
    with open(path) as file:
        return json.load(file)


def board():
    """Return two functions: hundredths of a degree, and whether the button is down."""
    import machine

    try:
        import rp2
    except ImportError:
        import esp32

        button = machine.Pin(0, machine.Pin.IN, machine.Pin.PULL_UP)
        if hasattr(esp32, "mcu_temperature"):  # C3, C6, S2, S3
            return lambda: esp32.mcu_temperature() * 100, lambda: not button.value()
        return lambda: (esp32.raw_temperature() - 32) * 500 // 9, lambda: not button.value()
    sensor = machine.ADC(4)
    # 0.706 V at 27 degrees, 1.721 mV less for each more; 3.3 V are 65535
    return lambda: 2700 + (14021 - sensor.read_u16()) * 10000 // 3418, rp2.bootsel_button


def encrypted():
    """Return what checks the broker's certificate; its authority is in ca.der."""
    import ntptime
    import tls

    ntptime.settime()  # certificates have dates; nothing else here needs a clock
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    with open("ca.der", "rb") as file:
        context.load_verify_locations(file.read())
    return context


def wifi():
    """Return a function that sees to the connection."""
    told = read("wifi.json")
    station = network.WLAN(network.STA_IF)
    station.active(True)
    station.connect(told["name"], told["password"])
    tried = time.ticks_ms()

    def online():
        nonlocal tried
        if station.isconnected():
            return True
        if time.ticks_diff(time.ticks_ms(), tried) > 30000:
            station.connect(told["name"], told["password"])
            tried = time.ticks_ms()
        return False

    return online


def main():
    settings = read("node.json")
    temperature, touched = board()
    online = wifi()
    while settings["tls"] and not online():
        time.sleep_ms(EVERY_MS)
    client = MQTTClient(
        "fednode-" + settings["node"],
        settings["host"],
        settings["port"],
        settings.get("username"),
        settings.get("password"),
        keepalive=60,
        ssl=encrypted() if settings["tls"] else None,
    )
    client.limit = 8192  # the largest head this board takes
    node = Node(settings, client)
    readings = array("h", bytes(2 * READINGS))
    while True:
        for i in range(READINGS):
            readings[i] = int(temperature())
            if online():
                node.poll()
            time.sleep_ms(EVERY_MS)
        label = "touched" if touched() else "free"
        node.sample(readings, 0.01, label)
        print(
            "%.2f degrees, %s; the head says %s; %d to send%s"
            % (
                readings[-1] / 100,
                label,
                node.predict(readings, 0.01),
                len(node.ring),
                "; " + repr(node.error) if node.error else "",
            )
        )


main()
