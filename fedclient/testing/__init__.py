"""Fakes that ship: for this project's tests, its demo, and the tests of those who build on it."""
