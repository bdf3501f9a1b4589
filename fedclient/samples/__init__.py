"""Samples on a device: the store an app appends to, what is cached of them, where they are imported from."""
