"""A driver that uploads folders as Ray's drivers do, and says how long their cluster takes to give one back.

stdin, a line each: ``upload FOLDER`` or ``get URI``. stdout: ``TOLD`` and the URI, or the seconds that Ray's
own client takes to have it in memory. What was uploaded stays, whether or not anybody refers to it.
"""

import os
import sys
import tempfile
import time

#: Seconds that an upload is kept without a reference to it; longer than any benchmark.
os.environ["RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S"] = "36000"

import ray
from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
from ray._private.worker import global_worker


def upload(folder: str) -> str:
    """Packs a folder into the cluster's store; returns the URI."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as scratch:  # noqa: PTH120 - no library to load
        env = upload_working_dir_if_needed(
            {"working_dir": folder}, include_gitignore=True, scratch_dir=scratch
        )
    return str(env["working_dir"])


def get(uri: str) -> float:
    """Seconds until the whole package is in memory."""
    began = time.perf_counter()
    value = global_worker.gcs_client.internal_kv_get(uri.encode(), None, 300)
    took = time.perf_counter() - began
    if not value:
        raise ValueError(f"{uri} is not in the store")
    return took


def main() -> None:
    """The command."""
    ray.init(log_to_driver=False)
    for line in sys.stdin:
        question, _, argument = line.strip().partition(" ")
        answer = upload(argument) if question == "upload" else get(argument)
        sys.stdout.write(f"\nTOLD {answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
