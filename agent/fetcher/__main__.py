"""Gets the file of ``RAY_ENVD_FETCH``; see the package."""

import json
import os
import sys
from contextlib import AbstractContextManager

from ray_envd.agent.fetcher.sink import Failure, Source, say, store


def open_source(uri: str, *, head: bool) -> AbstractContextManager[Source]:
    """The source that a URI names; a library is imported only where it is used."""
    scheme = uri.partition("://")[0].lower()
    if scheme == "file":
        from ray_envd.agent.fetcher import local  # noqa: PLC0415 - see the docstring

        return local.opened(uri)
    if scheme in {"http", "https"}:
        from ray_envd.agent.fetcher import web  # noqa: PLC0415 - see the docstring

        return web.opened(uri, os.environ, head=head)
    from ray_envd.agent.fetcher import objects  # noqa: PLC0415 - see the docstring

    return objects.opened(uri, os.environ, head=head)


def main() -> int:
    """Zero when the file is there or the validator is told."""
    request = json.loads(os.environ.pop("RAY_ENVD_FETCH"))
    destination = request["destination"]
    try:
        with open_source(request["uri"], head=destination is None) as source:
            if destination is None:
                say({"result": {"validator": source.validator, "bytes": source.total}})
            else:
                asks = bool(request.get("asks"))
                say({"result": store(source, destination, request["max_bytes"], asks=asks)})
    except Failure as failure:
        say({"error": {"kind": failure.kind, "cause": failure.cause, "remedy": failure.remedy}})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
