"""The same link written as one would in Python: grpc.aio, ONNX Runtime (a Run for each image), Pillow and NumPy; a process for each hop.

Usage: chain_peer.py receiver|emulator|transmitter [--listen HOST:PORT] [--next HOST:PORT] [--bundle DIR] [--snr-db DB]

It speaks semlink.v1 and has the bundle's networks and weights (cat_onnx.py), k = 64, AWGN, perfect channel state, no calibration. Each stream of the
client has a stream of its own to the next hop. With grpcio's threads instead of asyncio (a thread for each stream) it is slower. Where it serves, it
tells as the services do, as JSON on standard error.
"""
import argparse
import asyncio
import io
import json
import math
import sys
import tempfile
from pathlib import Path

import grpc
import grpc_tools
import numpy as np
from grpc_tools import protoc
from PIL import Image

import cat_onnx

USES = 64
PROTO = Path(__file__).parents[2] / "proto/proto"


def stubs():
    """Messages and services, generated from the .proto file."""
    with tempfile.TemporaryDirectory() as out:
        includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        arguments = ["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", "semlink/v1/semlink.proto"]
        if protoc.main(arguments) != 0:
            sys.exit("chain_peer.py: the stubs cannot be generated")
        sys.path.insert(0, out)
        from semlink.v1 import semlink_pb2, semlink_pb2_grpc

        return semlink_pb2, semlink_pb2_grpc


pb, rpc = stubs()


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


async def relay(messages, context, call, out, back):
    """Sends what `out` makes of each message to the next hop's stream, and returns what `back` makes of each answer."""
    async def forward():
        async for message in messages:
            await call.write(out(message))
        await call.done_writing()

    forwarding = asyncio.create_task(forward())
    async for report in call:
        await context.write(back(report))
    await forwarding


class Transmitter(rpc.TransmitterServicer):
    def __init__(self, link, bundle, snr_db):
        manifest = cat_onnx.manifest(bundle)
        spec = manifest["input"]
        self.link, self.codec_id = link, manifest["codec_id"]
        self.size = spec["width"], spec["height"]
        self.mean, self.std = np.float32(spec["mean"][0]), np.float32(spec["std"][0])
        self.described = cat_onnx.description(manifest["cat"], USES, snr_db, False)
        self.session = session(cat_onnx.encoder(bundle, USES))

    def frame(self, request):
        image = Image.open(io.BytesIO(request.image)).convert("L")
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BILINEAR)
        pixels = (np.asarray(image, dtype=np.float32) / np.float32(255) - self.mean) / self.std
        symbols = self.session.run(None, {"image": pixels[None, None], "description": self.described})[0]
        return pb.Frame(id=request.id, codec_id=self.codec_id, symbols=symbols.tobytes())

    def answer(self, report):
        return pb.ClassifyResponse(id=report.id, decision=report.decision, link=pb.LinkInfo(uses=report.uses))

    async def ClassifyStream(self, requests, context):
        await relay(requests, context, self.link.Transmit(), self.frame, self.answer)

    async def Classify(self, request, context):
        call = self.link.Transmit()
        await call.write(self.frame(request))
        await call.done_writing()
        return self.answer(await call.read())


class Emulator(rpc.LinkServicer):
    def __init__(self, link, snr_db):
        self.link, self.noise_var = link, 10 ** (-snr_db / 10)
        self.deviation = np.float32(math.sqrt(self.noise_var / 2))
        self.random = np.random.default_rng(1)
        self.gain = np.array([1, 0], dtype="<f4").tobytes()

    def distort(self, frame):
        symbols = np.frombuffer(frame.symbols, dtype="<f4")
        received = symbols + self.deviation * self.random.standard_normal(symbols.size, dtype=np.float32)
        state = pb.ChannelState(kind=pb.CHANNEL_KIND_AWGN, h=self.gain, noise_var=self.noise_var)
        return pb.Frame(id=frame.id, codec_id=frame.codec_id, symbols=received.tobytes(), csi=state)

    async def Transmit(self, frames, context):
        await relay(frames, context, self.link.Transmit(), self.distort, lambda report: report)


class Receiver(rpc.LinkServicer):
    def __init__(self, bundle, snr_db):
        manifest = cat_onnx.manifest(bundle)
        self.labels = manifest["labels"]
        self.described = cat_onnx.description(manifest["cat"], USES, snr_db, True)
        self.session = session(cat_onnx.decoder(bundle, USES))

    def decide(self, frame):
        received = np.frombuffer(frame.symbols, dtype="<f4").reshape(-1, 2)
        reliability = 1 / (1 + frame.csi.noise_var)
        estimates = np.empty((USES, 3), dtype=np.float32)
        estimates[:, :2] = received * np.float32(reliability)
        estimates[:, 2] = reliability
        chances = self.session.run(None, {"estimates": estimates, "description": self.described})[0][0]
        index = int(chances.argmax())
        decision = pb.Decision(index=index, label=self.labels[index], confidence=float(chances[index]))
        return pb.FrameReport(id=frame.id, decision=decision, uses=USES)

    async def Transmit(self, frames, context):
        async for frame in frames:
            await context.write(self.decide(frame))


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["receiver", "emulator", "transmitter"])
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--next")
    parser.add_argument("--bundle", default=Path(__file__).parents[2] / "assets/fashion-mnist")
    parser.add_argument("--snr-db", type=float, default=10)
    arguments = parser.parse_args()
    server = grpc.aio.server()
    link = arguments.next and rpc.LinkStub(grpc.aio.insecure_channel(arguments.next.removeprefix("http://")))
    if arguments.part == "receiver":
        rpc.add_LinkServicer_to_server(Receiver(arguments.bundle, arguments.snr_db), server)
    elif arguments.part == "emulator":
        rpc.add_LinkServicer_to_server(Emulator(link, arguments.snr_db), server)
    else:
        rpc.add_TransmitterServicer_to_server(Transmitter(link, arguments.bundle, arguments.snr_db), server)
    port = server.add_insecure_port(arguments.listen)
    await server.start()
    host = arguments.listen.rsplit(":", 1)[0]
    print(json.dumps({"fields": {"message": "serving", "address": f"{host}:{port}"}}), file=sys.stderr, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
