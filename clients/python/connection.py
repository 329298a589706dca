"""What the examples share: how to reach a service, and images to send."""
import gzip
import json
import struct
import sys
import zlib
from pathlib import Path

import grpc

SAMPLE = Path(__file__).resolve().parents[2] / "assets/sample"

# A call that is refused because the service is full, or that meets one which restarts, is made again, later and later; the service may say
# when (grpc-retry-pushback-ms). A stream is not: the transmitter sends its images again by itself.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "semlink.v1.Transmitter", "method": "Classify"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}


def add_flags(parser, flag, port):
    """Adds an address and the flags of TLS and token."""
    parser.add_argument(flag, dest="address", metavar="HOST:PORT", default=f"127.0.0.1:{port}", help="default %(default)s")
    parser.add_argument("--ca", metavar="FILE", help="certificates that are trusted, PEM; with it the connection is TLS")
    parser.add_argument("--cert", metavar="FILE", help="this client's certificate, PEM, for mutual TLS")
    parser.add_argument("--key", metavar="FILE", help="its key")
    parser.add_argument("--token-file", metavar="FILE", help="file with a bearer token")


def connect(arguments, address=None):
    """A channel, and the metadata that goes with each call."""
    address = (address or arguments.address).removeprefix("http://").removeprefix("https://")
    options = [("grpc.service_config", json.dumps(RETRIES))]
    read = lambda path: Path(path).read_bytes() if path else None
    if arguments.ca:
        credentials = grpc.ssl_channel_credentials(read(arguments.ca), read(arguments.key), read(arguments.cert))
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address, options)
    metadata = []
    if arguments.token_file:
        metadata.append(("authorization", "Bearer " + Path(arguments.token_file).read_text().strip()))
    return channel, metadata


def png(pixels, width, height):
    """A PNG file of gray pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sample(count):
    """The first images of the shipped sample, as (name, PNG file, class index)."""
    with gzip.open(SAMPLE / "t10k-images-idx3-ubyte.gz") as file:
        _, number, height, width = struct.unpack(">IIII", file.read(16))
        pixels = [file.read(height * width) for _ in range(min(count, number))]
    with gzip.open(SAMPLE / "t10k-labels-idx1-ubyte.gz") as file:
        labels = file.read()[8:]
    return [(f"sample {i}", png(image, width, height), labels[i]) for i, image in enumerate(pixels)]


def explain(error):
    """Ends the program with one line for a failed call."""
    sys.exit(f"{Path(sys.argv[0]).name}: {error.code().name}: {error.details()}")
