"""Getting packages that URIs name: one file, as its owner, verified."""

from ray_envd.agent.fetch.context import FetchContext, Fetched, GcsEndpoint
from ray_envd.agent.fetch.download import fetch, validator
from ray_envd.agent.fetch.uri import local_directory, package_name, parse_uri

__all__ = [
    "FetchContext",
    "Fetched",
    "GcsEndpoint",
    "fetch",
    "local_directory",
    "package_name",
    "parse_uri",
    "validator",
]
