"""The sampler's noise: a 64-bit mix of (seed, position, token) and the Gumbel value made of it.

The mix is the splitmix64 generator: its finaliser makes a key of seed and position, and the value
of a token is that generator's output number `token` from the key on. Test vectors (hexadecimal):

    mix(0, 0, 0)                         a26ab114db1f32cc
    mix(1, 0, 0)                         26f21c114de32a44
    mix(0, 1, 0)                         db4f048cf0287143
    mix(0, 0, 1)                         505a12f8f712377b
    mix(0xdeadbeefcafef00d, 4095, 49151) 81bce48da638e0bd
    mix(2**64 - 1, 2**31, 2**17)         c0ff73ccd8c16e30
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
"""splitmix64's increment: 2**64 divided by the golden ratio, odd."""

POSITION_STEP = 0xD1342543DE82EF95
"""Another odd constant of full period, so that seed + 1 and position + 1 do not coincide."""

_MASK = 2**64 - 1
_GOLDEN_64 = np.uint64(GOLDEN)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_11 = np.uint64(11)
_ONE = np.uint64(1)


def gumbel(seed: int, position: int, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
    """Standard Gumbel noise per token: `-ln(-ln u)`, `u = ((mix >> 11) + 0.5) / 2**53`."""
    u = ((mix(seed, position, tokens) >> _SHIFT_11).astype(np.float64) + 0.5) * 2.0**-53
    # The largest u rounds to 1.0 (53 bits and a half): its noise would be infinite.
    np.minimum(u, 1.0 - 2.0**-53, out=u)
    return -np.log(-np.log(u))


def mix(seed: int, position: int, tokens: NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 well-mixed bits for each token; a pure function of the three integers."""
    key = _finalise((_finalise((seed + GOLDEN) & _MASK) + (position + 1) * POSITION_STEP) & _MASK)
    x = tokens.astype(np.uint64)  # always a copy: worked on in place below
    x += _ONE
    x *= _GOLDEN_64
    x += np.uint64(key)
    x ^= x >> _SHIFT_30
    x *= _FACTOR_1
    x ^= x >> _SHIFT_27
    x *= _FACTOR_2
    x ^= x >> _SHIFT_31
    return x


def _finalise(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
