"""A node of fedclient: sends samples to a Linux gateway that trains, gets the head back and predicts.

What goes over the air is in docs/wire-format.md, section "Nodes".  Nothing here needs
a clock, a thread or a float.
"""
