"""Verify and sign COSE_Sign1 with the cwt library; runs in an environment that has cwt, not fedclient.

One JSON object per line on standard input, one on standard output; all values are hex.

    {"public", "aad", "message", "kid"?}            -> {"payload"} or {"refused": name of the error}
    {"public", "aad", "seed", "payload", "kid"?}    -> {"message"}
"""

import json
import sys

from cwt import COSE, COSEKey

ED25519 = -19  # RFC 9864


def answer(asked):
    given = {name: bytes.fromhex(value) for name, value in asked.items()}
    # COSE_Key, RFC 9052 section 7: kty OKP, alg, crv Ed25519, x; then kid and d.
    fields = {1: 1, 3: ED25519, -1: 6, -2: given["public"]}
    protected = {1: ED25519}
    if "kid" in given:
        fields[2] = protected[4] = given["kid"]
    if "seed" in given:
        key = COSEKey.new({**fields, -4: given["seed"]})
        message = COSE.new().encode_and_sign(
            given["payload"], key, protected=protected, unprotected={}, external_aad=given["aad"]
        )
        return {"message": message.hex()}
    try:
        payload = COSE.new().decode(given["message"], COSEKey.new(fields), external_aad=given["aad"])
        return {"payload": payload.hex()}
    except Exception as error:  # noqa: BLE001  which of its errors is cwt's own affair
        return {"refused": type(error).__name__}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))))
