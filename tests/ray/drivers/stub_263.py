"""A raylet's caller of Ray 2.6: its own generated stub, from its wheel, talks to our gRPC service.

Arguments: the folder of the generated modules, the gRPC target. stdin: a JSON list of [method, {fields}].
stdout: a JSON list of replies.
"""

import json
import sys

import grpc

sys.path.insert(0, sys.argv[1])

from generated import runtime_env_agent_pb2 as messages
from generated.runtime_env_agent_pb2_grpc import RuntimeEnvServiceStub
from google.protobuf.json_format import MessageToDict, ParseDict


def main() -> None:
    """The command."""
    replies = []
    with grpc.insecure_channel(sys.argv[2]) as channel:
        stub = RuntimeEnvServiceStub(channel)
        for method, fields in json.load(sys.stdin):
            request = ParseDict(fields, getattr(messages, f"{method}Request")())
            reply = getattr(stub, method)(request, timeout=60)
            replies.append(MessageToDict(reply, preserving_proto_field_name=True))
    json.dump(replies, sys.stdout)


main()
