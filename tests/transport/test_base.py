import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclient.transport.base import packet_bytes, publish_wire_bytes
from tests.transport.drive import publish_packet


@pytest.mark.parametrize(
    ("remaining", "size"),
    # MQTT 3.1.1, table 2.4: where the remaining length takes another byte
    [(0, 2), (127, 129), (128, 131), (16383, 16386), (16384, 16388), (2097151, 2097155), (2097152, 2097157)],
)
def test_the_fixed_header_grows_as_the_standard_says(remaining: int, size: int) -> None:
    assert packet_bytes(remaining) == size


@given(st.text(min_size=1, max_size=40), st.integers(0, 40_000), st.sampled_from([0, 1]))
def test_a_publish_has_the_size_of_its_bytes(topic: str, payload_len: int, qos: int) -> None:
    packet = publish_packet(topic, bytes(payload_len), 0x30 | qos << 1)
    assert publish_wire_bytes(topic, payload_len, qos) == len(packet)
