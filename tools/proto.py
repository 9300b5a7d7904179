"""Generates agent/pb/ from proto/. ``make proto`` runs it; ``--check`` only compares (exit 1 if stale)."""

import argparse
import filecmp
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "runtime_env": "ray/rpc/runtime_env.proto",
    "gcs_kv": "ray/rpc/gcs_kv.proto",
    "gcs_state": "ray/rpc/gcs_state.proto",
    "admin": "ray_envd/v1/admin.proto",
}


def rewrite(text: str) -> str:
    """Points imports at this package and descriptors at its own pool."""
    text = text.replace("_descriptor_pool.Default()", "POOL")
    text = re.sub(
        r"^from google.protobuf import descriptor_pool as _descriptor_pool$",
        "from ray_envd.agent.pb import POOL",
        text,
        flags=re.MULTILINE,
    )
    return re.sub(
        r"^from [\w.]+ import (\w+_pb2) as", r"from ray_envd.agent.pb import \1 as", text, flags=re.MULTILINE
    )


def generate(target: Path) -> list[Path]:
    """Writes the generated modules into a folder and returns their paths."""
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, source in SOURCES.items():
            arguments = [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"--python_out={scratch}",
                f"--pyi_out={scratch}",
                f"--grpc_python_out={scratch}",
                source,
            ]
            if protoc.main(arguments) != 0:
                sys.exit(f"protoc failed on {source}")
            stem = Path(scratch) / source.removesuffix(".proto")
            for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
                path = target / f"{name}{suffix}"
                path.write_text(rewrite(stem.with_name(stem.name + suffix).read_text()))
                made.append(path)
    return made


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if agent/pb/ is stale")
    folder = ROOT / "agent" / "pb"
    if not parser.parse_args().check:
        generate(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        stale = [
            p.name for p in generate(Path(scratch)) if not filecmp.cmp(p, folder / p.name, shallow=False)
        ]
    if stale:
        sys.exit(f"stale, run `make proto`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
