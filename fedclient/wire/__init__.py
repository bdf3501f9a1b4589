"""What messages look like as bytes: strict deterministic CBOR, the messages written in it, their topics."""
