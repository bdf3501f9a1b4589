"""Messages to and from an MQTT broker: one small protocol, over the network or in memory.

`base.py` says what a transport is, `mqtt.py` is the real one, `memory.py` a broker and its
clients inside one process.  A transport never retries and never waits on its own: the owner's
selector loop drives it, and the owner decides when to connect again.
"""
