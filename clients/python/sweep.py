"""Sets the channel emulator's SNR and measures the accuracy at each: python sweep.py --snr=-10,0,10 --images 200."""
import argparse

import grpc

import connection
from semlink.v1 import semlink_pb2, semlink_pb2_grpc


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    connection.add_flags(parser, "--to", 50051)
    parser.add_argument("--control", metavar="HOST:PORT", default="127.0.0.1:50052", help="of the emulator; default %(default)s")
    parser.add_argument("--snr", default="-10,-5,0,5,10", metavar="DB,DB,...", help="default %(default)s")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="of the shipped sample, at each SNR; default %(default)s")
    arguments = parser.parse_args()
    images = connection.sample(arguments.images)
    channel, metadata = connection.connect(arguments)
    transmitter = semlink_pb2_grpc.TransmitterStub(channel)
    channel, _ = connection.connect(arguments, arguments.control)
    control = semlink_pb2_grpc.ChannelControlStub(channel)
    try:
        print(" SNR dB  accuracy")
        for snr_db in map(float, arguments.snr.split(",")):
            # Only the fields that are set change; the emulator answers with the whole profile.
            profile = control.SetChannel(semlink_pb2.SetChannelRequest(snr_db=snr_db), metadata=metadata)
            requests = (semlink_pb2.ClassifyRequest(id=id, image=file, label=label) for id, (_, file, label) in enumerate(images))
            right = 0
            for answer in transmitter.ClassifyStream(requests, metadata=metadata):
                right += answer.HasField("decision") and answer.decision.index == images[answer.id][2]
            print(f"{profile.snr_db:7.1f}  {100 * right / len(images):6.2f} %", flush=True)
        # As it was when the emulator started.
        control.ResetChannel(semlink_pb2.ResetChannelRequest(), metadata=metadata)
    except grpc.RpcError as error:
        connection.explain(error)


main()
