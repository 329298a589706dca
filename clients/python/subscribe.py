"""Prints what a receiver decides, as JSON, one line for each frame: python subscribe.py."""
import argparse
import json
import sys

import grpc

import connection
from semlink.v1 import semlink_pb2, semlink_pb2_grpc


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    connection.add_flags(parser, "--receiver", 50053)
    parser.add_argument("--count", type=int, default=0, metavar="N", help="end after N decisions")
    arguments = parser.parse_args()
    channel, metadata = connection.connect(arguments)
    try:
        events = semlink_pb2_grpc.DecisionsStub(channel).Subscribe(semlink_pb2.SubscribeRequest(), metadata=metadata)
        # Sent by the receiver when the subscription counts.
        events.initial_metadata()
        print("listening", file=sys.stderr, flush=True)
        for seen, event in enumerate(events, 1):
            decision = event.decision
            # (origin, number) is the frame's name: after a restart of the receiver a frame may come twice.
            about = {"stream": event.stream, "sequence": event.sequence, "origin": event.origin, "number": event.number}
            print(json.dumps({**about, "label": decision.label, "confidence": decision.confidence, "k": event.uses}), flush=True)
            if seen == arguments.count:
                break
    except grpc.RpcError as error:
        connection.explain(error)
    except KeyboardInterrupt:
        pass


main()
