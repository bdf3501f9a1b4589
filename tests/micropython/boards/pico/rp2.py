"""Stands in for a Pico's module: the button is down."""


def bootsel_button():
    return 1
