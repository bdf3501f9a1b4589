"""Stands in for an ESP32's module."""


def raw_temperature():
    return 131  # Fahrenheit
