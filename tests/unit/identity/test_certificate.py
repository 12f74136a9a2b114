"""The served certificate is looked at before anything starts, and every fault has its name."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from parhelion.identity import pinned, read_certificate
from parhelion.testing.certificates import Authority
from parhelion.words import Problem, ProblemCode

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates, and is not installed"
)

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign(
        "pool", ["DNS:Pool.Test", "DNS:*.wild.test", "IP:127.0.0.1", "IP:fd00::2"]
    )


def refusal(cert: Path | str, key: Path | str) -> Problem:
    with pytest.raises(Problem) as caught:
        read_certificate(str(cert), str(key))
    assert caught.value.code is ProblemCode.CONFIG_INVALID
    assert caught.value.hint
    return caught.value


def test_a_good_pair_tells_the_names_and_addresses_it_is_good_for(pair: Pair) -> None:
    found = read_certificate(*map(str, pair))
    assert found.names == ("pool.test",)
    assert found.addresses == ("127.0.0.1", "fd00::2")
    assert found.pem.startswith("-----BEGIN CERTIFICATE-----")


def test_one_without_the_other_is_refused(pair: Pair) -> None:
    assert "--tls-key" in refusal(pair[0], "").hint
    assert "--tls-cert" in refusal("", pair[1]).hint


def test_every_fault_of_the_files_is_named(
    pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    cert, key = pair
    other = authority.sign("other", ["DNS:other.test"])
    expired = authority.sign("expired", ["DNS:pool.test"], days=-1)
    text, locked = tmp_path / "text", tmp_path / "locked"
    text.write_text("hello")
    command = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:x"]
    subprocess.run([*command, "-out", str(locked)], check=True, capture_output=True)
    locked.chmod(0o600)
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    for files, wanted in (
        ((tmp_path / "nowhere", key), "cannot be read: No such file"),
        ((cert, tmp_path), "cannot be read: Is a directory"),
        ((cert, other[1]), "is not the one of the certificate"),
        ((text, key), "there is no certificate in"),
        ((cert, cert), "no certificate and key"),
        ((cert, locked), "has a passphrase"),
        ((tmp_path / "large", key), "too large"),
        (expired, "expired"),
    ):
        if files[1] is cert:
            cert.chmod(0o600)
        assert wanted in refusal(*files).message, files


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_key_that_everybody_can_read_is_refused_and_a_groups_is_not(
    authority: Authority,
) -> None:
    cert, key = authority.sign("shared", ["DNS:pool.test"])
    key.chmod(0o640)
    read_certificate(str(cert), str(key))
    key.chmod(0o644)
    assert "everybody" in refusal(cert, key).message


def test_a_pin_takes_that_certificate_under_any_name_and_no_other_of_its_authority(
    pair: Pair, authority: Authority
) -> None:
    pin = read_certificate(*map(str, pair)).pem
    assert greets(pair, pin)
    other = authority.sign("twin", ["DNS:pool.test", "IP:127.0.0.1"])
    assert not greets(other, pin)


def greets(pair: Pair, pin: str) -> bool:
    """Whether a client with this pin accepts a server with this pair."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*pair)
    near, far = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except OSError:
            far.close()

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        with pinned(pin).wrap_socket(near, server_hostname="whatever.example"):
            return True
    except ssl.SSLCertVerificationError:
        return False
    finally:
        near.close()
        answering.join(5)
