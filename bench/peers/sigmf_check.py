"""The `sigmf` package's side of recordings: opens a pair of semlink-recording, checks it and prints one JSON object.

Usage: sigmf_check.py DIR/NAME [--awgn]
Checked are, for DIR/NAME-before and DIR/NAME-after: SigMF's schema and namespaces, the SHA-512 (by the package and by hashlib), that the
annotations cover the data without gaps, that labels and `semlink:` fields are there, of their types and the same on both sides, and that
the package reads the samples that are in the file. With --awgn (h = 1, nothing but noise) the SNR of every frame's payload is computed anew
from after - before and must be `semlink:snr_db_realised` within 0.01 dB. A mismatch ends it with a message and exit status 1.
"""
import hashlib
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import sigmf
from sigmf import sigmffile

FIELDS = {"frame_id": int, "stream": int, "sequence": int, "pilots": int, "seed": int, "profile_version": int, "lost": bool}
FRAME = 65536 + 1024


def need(condition, message):
    if not condition:
        sys.exit(f"sigmf_check: {message}")


def load(stem, side):
    meta_path, data_path = Path(f"{stem}-{side}.sigmf-meta"), Path(f"{stem}-{side}.sigmf-data")
    text = json.loads(meta_path.read_bytes())
    data = np.fromfile(data_path, "<c8")
    if len(data):
        recording = sigmffile.fromfile(str(meta_path))
        samples = np.asarray(recording.read_samples())
        need(samples.dtype == np.complex64, f"{data_path}: read as {samples.dtype}")
        need(samples.tobytes() == data.tobytes(), f"{data_path}: the package reads other samples")
    else:
        # An empty file cannot be mapped into memory, which the package would do.
        recording = sigmffile.SigMFFile(metadata=text)
    recording.validate()
    found = text["global"]
    need(hashlib.sha512(data_path.read_bytes()).hexdigest() == found["core:sha512"], f"{data_path}: core:sha512 differs")
    need(found["semlink:side"] == side, f"{meta_path}: semlink:side is {found['semlink:side']}")
    need(isinstance(found["semlink:link_key"], int) and isinstance(found["semlink:profiles"], dict), f"{meta_path}: global")
    need([e["name"] for e in found["core:extensions"]] == ["semlink"], f"{meta_path}: core:extensions")
    need(len(recording.get_captures()) == 1 and "core:datetime" in recording.get_captures()[0], f"{meta_path}: captures")
    annotations, end = recording.get_annotations(), 0
    need(annotations == text["annotations"], f"{meta_path}: the package reads other annotations")
    for i, annotation in enumerate(annotations):
        where, count = f"{meta_path}: annotations[{i}]", annotation["core:sample_count"]
        need(annotation["core:sample_start"] == end, f"{where}: begins at {annotation['core:sample_start']}, not at {end}")
        end += count
        for field, kind in FIELDS.items():
            need(type(annotation[f"semlink:{field}"]) is kind, f"{where}: semlink:{field} is {annotation[f'semlink:{field}']}")
        need(type(annotation["semlink:snr_db_requested"]) is float, f"{where}: semlink:snr_db_requested")
        need(isinstance(annotation["semlink:snr_db_realised"], float | None), f"{where}: semlink:snr_db_realised")
        need(0 <= annotation["semlink:pilots"] <= count <= FRAME, f"{where}: {annotation['semlink:pilots']} pilots of {count}")
        label = f"frame {annotation['semlink:stream']}/{annotation['semlink:sequence']}"
        need(annotation["core:label"] == label and annotation["core:generator"] == "semlink", f"{where}: label or generator")
    need(end == len(data), f"{data_path}: {len(data)} symbols, {end} annotated")
    need(bool(np.isfinite(data).all()), f"{data_path}: values that are not finite")
    return text, data, annotations


def payload(data, annotation):
    start = annotation["core:sample_start"]
    return data[start + annotation["semlink:pilots"] : start + annotation["core:sample_count"]].astype(np.complex128)


def main():
    warnings.simplefilter("error")
    stem, awgn = sys.argv[1], "--awgn" in sys.argv[2:]
    (before, x, x_notes), (after, y, y_notes) = load(stem, "before"), load(stem, "after")
    for field in ("semlink:link", "semlink:link_key", "semlink:profiles", "core:sample_rate", "core:description"):
        need(before["global"].get(field) == after["global"].get(field), f"{stem}: {field} differs before and after")
    need(len(x_notes) == len(y_notes), f"{stem}: {len(x_notes)} frames before, {len(y_notes)} after")
    compared, worst = 0, 0.0
    for i, (sent, left) in enumerate(zip(x_notes, y_notes)):
        gone = left["semlink:lost"] and left["core:sample_count"] == 0
        for field in sent.keys() | left.keys():
            size = field in ("core:sample_count", "semlink:pilots")
            same = field == "core:sample_start" or (size and gone) or sent.get(field) == left.get(field)
            need(same, f"{stem}: annotations[{i}]: {field} is {sent.get(field)} before, {left.get(field)} after")
        noted = sent["semlink:snr_db_realised"]
        if awgn and noted is not None and not gone:
            s, n = payload(x, sent), payload(y, left) - payload(x, sent)
            found = 10 * math.log10(np.sum(np.abs(s) ** 2) / np.sum(np.abs(n) ** 2))
            need(abs(found - noted) <= 0.01, f"{stem}: annotations[{i}]: SNR of the samples {found:.4f} dB, noted {noted:.4f} dB")
            compared, worst = compared + 1, max(worst, abs(found - noted))
    need(not awgn or compared > 0, f"{stem}: no frame whose SNR could be compared")
    lost = sum(left["semlink:lost"] for left in y_notes)
    summary = {"frames": len(x_notes), "lost": lost, "symbols_before": len(x), "symbols_after": len(y)}
    if awgn:
        summary |= {"snr_compared": compared, "snr_worst_db": worst}
    print(json.dumps(summary | {"peer": f"sigmf {sigmf.__version__}", "specification": sigmf.__specification__}))


if __name__ == "__main__":
    try:
        main()
    except Exception as e:
        sys.exit(f"sigmf_check: {type(e).__name__}: {e}")
