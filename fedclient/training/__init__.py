"""The head's training loop, what may leave the device of its result, and the process around it."""
