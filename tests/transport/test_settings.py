import pytest

from fedclient.errors import ConfigError
from fedclient.transport.settings import check, is_loopback
from fedclient.values import Broker
from tests.transport.drive import settings

FAR = Broker(host="broker.example.org", port=1883)
FAR_TLS = Broker(host="broker.example.org", port=8883, tls=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"broker": FAR}, "set tls, or allow_plaintext"),
        ({"broker": Broker(host="127.0.0.1.example.org", port=1)}, "not be encrypted"),
        ({"broker": Broker(host="mqtt://127.0.0.1", port=1)}, "'mqtt://127.0.0.1' is no host: give a name"),
        ({"broker": Broker(host="127.0.0.1:1884", port=1)}, "is no host: give a name or an address alone"),
        ({"broker": Broker(host="", port=1883)}, "give a host name"),
        ({"broker": Broker(host="localhost", port=0)}, "a port from 1 to 65535"),
        ({"broker": Broker(host="localhost", port=65536)}, "a port from 1 to 65535"),
        ({"ca_file": "ca.pem"}, "but not tls"),
        ({"certificate_file": "c.pem"}, "but not tls"),
        ({"broker": FAR_TLS, "key_file": "k.pem"}, "no client certificate"),
        ({"password": "secret"}, "no user name"),
        ({"mqtt_version": 4}, "set 3 (that is 3.1.1) or 5"),
        ({"keepalive_s": 0}, "1 to 65535 seconds"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(settings(1883, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"broker": FAR, "allow_plaintext": True},
        {"broker": FAR_TLS, "certificate_file": "both.pem"},
        {"username": "token"},  # brokers with tokens take no password
        {"mqtt_version": 5},
    ],
)
def test_what_can_work_passes(changes: dict[str, object]) -> None:
    assert check(settings(1883, **changes))


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "10.0.0.1", "localhost.example.org", "::"]))


def test_a_password_is_not_printed() -> None:
    assert "hush" not in repr(settings(1883, username="u", password="hush"))
