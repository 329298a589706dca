"""Has images classified: python classify.py photo.png ..., or the shipped sample: python classify.py --sample 20."""
import argparse
import json
from pathlib import Path

import grpc

import connection
from semlink.v1 import semlink_pb2, semlink_pb2_grpc


def requests(images, timeout_ms):
    """The id comes back in the answer; `label` lets the transmitter measure its accuracy."""
    for id, (_, file, label) in enumerate(images):
        yield semlink_pb2.ClassifyRequest(id=id, image=file, label=label, timeout_ms=timeout_ms)


def streamed(transmitter, images, arguments, metadata):
    """All images under way at once, over one stream: answers come as they are ready. A bad image is an answer with an error."""
    for answer in transmitter.ClassifyStream(requests(images, arguments.timeout_ms), metadata=metadata):
        yield answer


def one_by_one(transmitter, images, arguments, metadata):
    """A call for each image: its deadline is the call's, its failure the call's status."""
    timeout = arguments.timeout_ms / 1e3 or None
    for request in requests(images, 0):
        try:
            yield transmitter.Classify(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            failure = semlink_pb2.Error(code=error.code().value[0], message=error.details())
            yield semlink_pb2.ClassifyResponse(id=request.id, error=failure)


def described(name, label, answer):
    """An answer as `semlink send --json` prints it."""
    if answer.HasField("error"):
        return {"image": name, "error": answer.error.message}
    decision, link, timings = answer.decision, answer.link, answer.link.timings
    return {
        "image": name,
        "true_index": label,
        "index": decision.index,
        "label": decision.label,
        "confidence": decision.confidence,
        "unsure": decision.unsure,
        "k": link.uses,
        "snr_db_measured": link.snr_db_estimated if link.HasField("snr_db_estimated") else None,
        "milliseconds": (timings.prepare_us + timings.encode_us + timings.link_us) / 1e3,
    }


def line(found):
    if "error" in found:
        return f"{found['image']}: failed: {found['error']}"
    snr = "" if found["snr_db_measured"] is None else f", {found['snr_db_measured']:.1f} dB"
    unsure = "unsure, perhaps " if found["unsure"] else ""
    sure = f"{unsure}{found['label']} ({100 * found['confidence']:.1f} %)"
    return f"{found['image']}: {sure}, k = {found['k']}{snr}, {found['milliseconds']:.1f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    connection.add_flags(parser, "--to", 50051)
    parser.add_argument("--unary", action="store_true", help="a call for each image instead of one stream")
    parser.add_argument("--timeout-ms", type=int, default=0, help="within which each answer is wanted; 0: the transmitter's patience")
    parser.add_argument("--json", action="store_true", help="a JSON object for each image")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="the first N images of the shipped sample")
    parser.add_argument("images", nargs="*", type=Path, help="PNG, JPEG or WebP files")
    arguments = parser.parse_args()
    images = [(str(path), path.read_bytes(), None) for path in arguments.images] + connection.sample(arguments.sample)
    if not images:
        parser.error("name image files, or --sample N")

    channel, metadata = connection.connect(arguments)
    transmitter = semlink_pb2_grpc.TransmitterStub(channel)
    send = one_by_one if arguments.unary else streamed
    answers = {}
    try:
        for answer in send(transmitter, images, arguments, metadata):
            answers[answer.id] = answer
    except grpc.RpcError as error:
        connection.explain(error)
    found = [described(name, label, answers[id]) for id, (name, _, label) in enumerate(images)]
    for one in found:
        print(json.dumps(one) if arguments.json else line(one))
    known = [one["index"] == one["true_index"] for one in found if one.get("true_index") is not None]
    if known and not arguments.json:
        print(f"{sum(known)} of {len(known)} right")
    if any("error" in one for one in found):
        raise SystemExit(1)


main()
