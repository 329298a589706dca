"""Prints the golden values of tests/randomness.rs: ChaCha8 written out from its definition (D. J. Bernstein, 2008).

Key: seed, link, stream, frame, each 8 bytes little-endian; nonce: the substream, and in
its upper half the number of the stage among those of its model; block counter: 0.
Run: python3 chacha8.py
"""

import struct

MASK = 0xFFFFFFFF


def quarter_round(s, a, b, c, d):
    for x, y, z, rotation in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & MASK
        s[z] ^= s[x]
        s[z] = ((s[z] << rotation) | (s[z] >> (32 - rotation))) & MASK


def block(key, counter, nonce, rounds=8):
    start = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
    start += [counter & MASK, counter >> 32, nonce & MASK, nonce >> 32]
    s = list(start)
    for _ in range(rounds // 2):
        for column in range(4):
            quarter_round(s, column, column + 4, column + 8, column + 12)
        for i in range(4):
            quarter_round(s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & MASK for a, b in zip(s, start)))


# RFC 8439, 2.3.2, in its 20-round form, to trust the lines above.
nonce = struct.unpack("<Q", bytes.fromhex("0000004a00000000"))[0]
counter = 1 | struct.unpack("<I", bytes.fromhex("00000009"))[0] << 32
assert block(bytes(range(32)), counter, nonce, 20)[:8].hex() == "10f1e7e4d13b5915"

key = struct.pack("<4Q", 1, 2, 3, 0x0123456789ABCDEF)
for stage, substream in ((0, 0), (0, 1), (0, 2), (1, 5), (2, 5)):
    print(stage, substream, [hex(word) for word in struct.unpack("<2Q", block(key, 0, stage << 32 | substream)[:16])])
