"""An independent reader: the cwt library verifies our COSE_Sign1, and we verify what it signs.

cwt wants cbor2 < 6, so it lives in an environment of its own, .venv-cwt, which tools/test makes.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fedclient.crypto import cose, keys
from fedclient.errors import CryptoError
from fedclient.wire import cbor

ROOT = Path(__file__).parent.parent.parent
INTERPRETER = Path(os.environ.get("FEDCLIENT_CWT_PYTHON", ROOT / ".venv-cwt/bin/python"))
SEED = bytes(range(32))
KEY = keys.SigningKey(SEED)
PAYLOAD = cbor.encode([7, 1, 40, 6, None, bytes(range(200))])
AAD = cbor.encode(["fedclient", 1, 2, 1, "demo", "up", KEY.device_id, bytes(8), 1, 40, bytes(32), bytes(32)])
WITH_KID = pytest.mark.parametrize("with_kid", [False, True], ids=["up, without kid", "down, with kid"])


def cwt(*asked: dict[str, bytes]) -> list[dict[str, str]]:
    """Ask cwt in its own environment; one answer for each question."""
    if not INTERPRETER.exists():
        pytest.skip(f"LEFT OUT: no cwt at {INTERPRETER} (tools/test makes it; or set FEDCLIENT_CWT_PYTHON)")
    lines = "".join(json.dumps({name: value.hex() for name, value in one.items()}) + "\n" for one in asked)
    script = Path(__file__).with_name("read_with_cwt.py")
    run = subprocess.run(
        [INTERPRETER, "-I", script], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def question(with_kid: bool, **more: bytes) -> dict[str, bytes]:
    kid = {"kid": KEY.kid} if with_kid else {}
    return {"public": KEY.public, "aad": AAD, **kid, **more}


@WITH_KID
def test_cwt_reads_us_and_refuses_every_changed_byte(
    with_kid: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    message = cose.sign(KEY, PAYLOAD, AAD, with_kid=with_kid)
    changed = [message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :] for at in range(len(message))]
    good, other_aad, other_key, *bad = cwt(
        question(with_kid, message=message),
        question(with_kid, message=message) | {"aad": AAD + b"\x00"},
        question(with_kid, message=message) | {"public": keys.SigningKey(bytes(32)).public},
        *(question(with_kid, message=one) for one in changed),
    )
    assert good == {"payload": PAYLOAD.hex()}
    assert "refused" in other_aad
    assert "refused" in other_key
    assert len(bad) == len(message)
    accepted = [at for at, one in enumerate(bad) if "refused" not in one]
    assert accepted == []
    with capsys.disabled():
        print(f"\ncwt reads a message of ours, and refuses {len(bad)} of {len(bad)} with one changed byte")


@WITH_KID
def test_we_read_cwt_and_write_the_same_bytes(with_kid: bool) -> None:
    (answer,) = cwt(question(with_kid, seed=SEED, payload=PAYLOAD))
    message = bytes.fromhex(answer["message"])
    assert cose.verify(KEY.public, message, AAD) == PAYLOAD
    assert message == cose.sign(KEY, PAYLOAD, AAD, with_kid=with_kid)  # Ed25519 has no randomness
    for at in range(len(message)):
        with pytest.raises(CryptoError):
            cose.verify(KEY.public, message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :], AAD)


def test_cwt_reads_a_message_up_as_it_is_expanded() -> None:
    """What travels is signature and payload; `expand` makes of it what every COSE library reads."""
    short = cose.sign_compact(KEY, PAYLOAD, AAD)
    changed = [short[:at] + bytes((short[at] ^ 1,)) + short[at + 1 :] for at in range(len(short))]
    good, *bad = cwt(*(question(with_kid=False, message=cose.expand(one)) for one in (short, *changed)))
    assert good == {"payload": PAYLOAD.hex()}
    assert all("refused" in one for one in bad)
    (theirs,) = cwt(question(with_kid=False, seed=SEED, payload=PAYLOAD))
    assert cose.expand(short).hex() == theirs["message"]
