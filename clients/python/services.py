"""Asks a service what it offers, without .proto files: python services.py --of 127.0.0.1:50051. Needs grpcio-reflection."""
import argparse

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import connection


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    connection.add_flags(parser, "--of", 50051)
    arguments = parser.parse_args()
    channel, metadata = connection.connect(arguments)
    if metadata:
        channel = grpc.intercept_channel(channel, WithMetadata(metadata))
    try:
        reflection = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(reflection)
        for name in sorted(reflection.get_services()):
            print(name)
            for method in pool.FindServiceByName(name).methods:
                asked = ("stream " if method.client_streaming else "") + method.input_type.full_name
                told = ("stream " if method.server_streaming else "") + method.output_type.full_name
                print(f"  {method.name}({asked}) returns ({told})")
    except grpc.RpcError as error:
        connection.explain(error)


class WithMetadata(grpc.StreamStreamClientInterceptor):
    """Reflection is a call like others: it carries the token, too."""

    def __init__(self, metadata):
        self.metadata = metadata

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(details._replace(metadata=self.metadata), requests)


main()
