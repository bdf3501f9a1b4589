"""What main.py and deepsleep.py need of a Pico W or an ESP32, nothing wired: thermometer, button, Wi-Fi.

Not part of the package: yours will have other sensors.
"""

import json
import time

import network

from fednode.mqtt import MQTTClient


def read(path):
    with open(path) as file:
        return json.load(file)


def sensors():
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


def wifi():
    """Return a function that sees to the connection, and says whether it is there."""
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


def client(settings):
    """Return the MQTT client that node.json tells of; with TLS, Wi-Fi has to be there."""
    made = MQTTClient(
        "fednode-" + settings["node"],
        settings["host"],
        settings["port"],
        settings.get("username"),
        settings.get("password"),
        keepalive=60,
        ssl=encrypted() if settings["tls"] else None,
    )
    made.limit = 8192  # the largest head this board takes
    return made


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
