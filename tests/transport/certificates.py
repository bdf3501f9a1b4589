"""What a mosquitto with TLS or passwords needs: certificates that openssl makes, names and rights."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ANYBODY = "allow_anonymous true"


def make_pki(folder: Path) -> Path:
    """Make a CA, certificates it signed, and one that somebody else signed; return their folder."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("LEFT OUT: openssl is not installed (apt-get install openssl)")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    def new(name: str, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")
        run("req", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-out", f"{name}.pem", *arguments)

    def authority(name: str) -> None:
        (folder / f"{name}.ext").write_text(
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
        )
        new(name, "-signkey", f"{name}.key", "-extfile", f"{name}.ext")

    def signed(name: str, san: str, by: str = "ca") -> None:
        (folder / f"{name}.ext").write_text(f"subjectAltName={san}\n")
        new(name, "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-extfile", f"{name}.ext")

    authority("ca")
    authority("other-ca")
    signed("server", "DNS:localhost")
    signed("elsewhere", "DNS:broker.example.org")
    signed("client", "DNS:device")
    signed("stranger", "DNS:device", by="other-ca")
    run("ec", "-in", "client.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    return folder


def tls_lines(pki: Path, server: str = "server", *more: str) -> list[str]:
    """Return a configuration for a broker with this certificate, and with what more it is to have."""
    return [f"certfile {pki}/{server}.pem", f"keyfile {pki}/{server}.key", *(more or [ANYBODY])]


def password_lines(folder: Path, passwords: dict[str, str], *rights: str) -> list[str]:
    """Return a configuration for a broker that admits these users alone, with these rights."""
    tool = shutil.which("mosquitto_passwd")
    if not tool:
        pytest.skip("LEFT OUT: mosquitto_passwd is not installed")
    names, acl = folder / "passwords", folder / "rights"
    names.touch(mode=0o600)
    for user, password in passwords.items():
        subprocess.run([tool, "-b", str(names), user, password], check=True, capture_output=True)
    acl.write_text("".join(f"{line}\n" for line in rights))
    return [f"password_file {names}", f"acl_file {acl}"]
