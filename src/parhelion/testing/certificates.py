"""Certificates as a test needs them, made by the openssl command: an authority and its pairs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

DEADLINE_S = 30.0


class Authority:
    """A private certificate authority in a folder; `file` is what a client trusts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / "authority.pem"
        self._key = folder / "authority.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(self._key), "-out", str(self.file), "-days", "2"),
            *("-subj", "/CN=Test authority", "-addext", "keyUsage=critical,keyCertSign"),
        )

    def sign(self, name: str, alternatives: Sequence[str], *, days: int = 2) -> tuple[Path, Path]:
        """Certificate and key for these names (`DNS:...`, `IP:...`); negative days: expired."""
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        asked, more = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}"),
        )
        more.write_text(
            f"subjectAltName={','.join(alternatives)}\nbasicConstraints=CA:FALSE\n"
            "authorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth\n"
        )
        _openssl(
            *("x509", "-req", "-in", str(asked), "-CA", str(self.file), "-CAkey", str(self._key)),
            *("-CAcreateserial", "-out", str(cert), "-days", str(days), "-extfile", str(more)),
        )
        key.chmod(0o600)
        return cert, key


def _openssl(*words: str) -> None:
    done = subprocess.run(
        ["openssl", *words], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if done.returncode:
        raise AssertionError(f"openssl {' '.join(words)}: {done.stderr}")
