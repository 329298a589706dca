"""Prints the golden values of tests/randomness.rs: Gaussian draws of a key, in double precision.

Draw i of a substream takes bytes 8 i to 8 i + 8 of its ChaCha8 keystream as two 32-bit words, little-endian, lower first: a, b. With
u = (a + 1/2) / 2^32 and v = b / 2^32 it is sqrt(-ln u) e^(2 pi j v), CN(0, 1) (G. E. P. Box and M. E. Muller, 1958).
Run: python3 gaussian.py
"""

import cmath
import contextlib
import io
import math
import struct

with contextlib.redirect_stdout(io.StringIO()):
    from chacha8 import block, key

SUBSTREAMS = {"Scatter": 0, "Noise": 1, "PilotNoise": 3}


def draws(substream, count):
    keystream = b"".join(block(key, counter, substream) for counter in range((8 * count + 63) // 64))
    for a, b in struct.iter_unpack("<2I", keystream[: 8 * count]):
        u, v = (a + 0.5) / 2**32, b / 2**32
        yield cmath.rect(math.sqrt(-math.log(u)), 2 * math.pi * v)


for name, substream in SUBSTREAMS.items():
    print(f"(Substream::{name}, [")
    values = list(draws(substream, 130))
    # The first ones, two across the border of a block of 64 bytes, and two across one of 64 draws.
    for index in (0, 1, 2, 7, 8, 63, 64, 129):
        print(f"    ({index}, {values[index].real:.12f}, {values[index].imag:.12f}),")
    print("]),")
