"""NumPy's side of the AWGN measurement: y = x + n in place on one core, SNR 10 dB, complex64. Prints one JSON object.

Usage: numpy_awgn.py SYMBOLS_PER_FRAME FRAMES ROUNDS

Draws in single precision into memory that is used again, and in NumPy's default, double precision; the faster one is the peer.
"""
import json
import sys
import time

import numpy as np

size, frames, rounds = (int(argument) for argument in sys.argv[1:4])
sigma = np.float32(np.sqrt(0.5 * 10 ** (-10 / 10)))  # of each axis
rng = np.random.default_rng(1)
start = np.exp(1j * np.arange(size)).astype(np.complex64)
noise = np.empty(2 * size, dtype=np.float32)


def single(x):
    rng.standard_normal(dtype=np.float32, out=noise)
    np.multiply(noise, sigma, out=noise)
    x += noise.view(np.complex64)


def double(x):
    x += (sigma * rng.standard_normal(2 * size)).astype(np.float32).view(np.complex64)


def median_ms(apply):
    x = start.copy()
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(frames):
            apply(x)
        times.append((time.perf_counter() - begin) * 1e3)
    return sorted(times[1:])[rounds // 2]


single_ms, double_ms = median_ms(single), median_ms(double)
per_second = lambda ms: size * frames / ms * 1e3
best = min(single_ms, double_ms)
kind = "float32" if single_ms <= double_ms else "float64"
print(json.dumps({
    "ms": best,
    "symbols_per_second": per_second(best),
    "float32": per_second(single_ms),
    "float64": per_second(double_ms),
    "peer": f"NumPy {np.__version__}, {kind}",
}))
