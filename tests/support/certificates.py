"""An authority of our own and certificates by it, for TLS on loopback; OpenSSL makes them."""

import subprocess
from pathlib import Path
from typing import Final

__all__ = ["make_authority", "make_certificate"]

_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def make_authority(folder: Path, name: str) -> Path:
    """Make an authority; return its certificate, next to which lies its key."""
    folder.mkdir(parents=True, exist_ok=True)
    _request(folder, name, "-subj", f"/CN={name}")
    return folder / f"{name}.pem"


def make_certificate(authority: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for loopback; return it and its key."""
    folder = authority.parent
    _request(
        folder,
        name,
        *("-subj", f"/CN={name}", "-CA", str(authority)),
        *("-CAkey", str(authority.with_suffix(".key"))),
        *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
    )
    return folder / f"{name}.pem", folder / f"{name}.key"


def _request(folder: Path, name: str, *arguments: str) -> None:
    files = ("-out", str(folder / f"{name}.pem"), "-keyout", str(folder / f"{name}.key"))
    command = ["openssl", "req", "-x509", *_NEW_KEY, *files, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
