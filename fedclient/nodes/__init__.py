"""Microcontrollers that send samples to this device and get its head back: messages, counting, delivery."""
