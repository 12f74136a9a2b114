"""Only what authenticators write is read: nothing that stands for more than its bytes."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parhelion.identity import cbor
from tests.unit.identity.authenticator import Passkey

WHOLE = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text() | st.booleans()
VALUES = st.recursive(
    WHOLE | st.none(),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.integers(-300, 300) | st.text(), inner, max_size=6)
    ),
    max_leaves=20,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=40)
@given(VALUES)
def test_what_a_library_writes_is_read_the_same_or_is_too_deep(value: object) -> None:
    written = cbor2.dumps(value)
    if depth(value) > cbor.DEPTH_LIMIT:
        with pytest.raises(ValueError, match="deep"):
            cbor.whole(written)
    else:
        assert cbor.whole(written) == value


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (cbor.whole, cbor.authenticator_data):
        try:
            read(data)
        except ValueError:
            continue


def test_a_few_bytes_never_stand_for_many() -> None:
    """Each list names the one before it twice by a tag: 2 ** 40 values in 300 bytes."""
    bomb: list[object] = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    small = cbor2.dumps(bomb, value_sharing=True)
    assert len(small) < 400
    with pytest.raises(ValueError, match="CTAP2"):
        cbor.whole(small)
    with pytest.raises(ValueError, match="CTAP2"):
        cbor.authenticator_data(Passkey().registered(small))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x18", b"\x9f\xff", b"\xf9\x00\x00", b"\xa1\x81\x00\x00"),
        *(b"\xa2\x00\x00\x00\x00", b"\x00\x00", b"\x9b" + b"\xff" * 8, b"\xc0\x60"),
        *(b"\x62\xff\xff", b"\xf7"),
    ],
)
def test_what_is_cut_doubled_tagged_or_endless_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        cbor.whole(data)


def test_authenticator_data_have_no_bytes_too_many_and_none_too_few() -> None:
    good = Passkey().registered()
    assert cbor.authenticator_data(good).sign_count == 1
    for bad in (good + b"\0", good[:-1], good[:40], good[:30]):
        with pytest.raises(ValueError):
            cbor.authenticator_data(bad)
