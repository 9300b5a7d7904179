"""GPUs of the node in a worker's container, by CDI (container-device-interface's specification)."""

from collections.abc import Mapping
from pathlib import Path

GPU_KIND = "nvidia.com/gpu"
_SPECS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_VISIBLE = "CUDA_VISIBLE_DEVICES"
#: What hides every GPU from CUDA.
_NONE = frozenset({"", "-1", "NoDevFiles"})


def gpu_options(environment: Mapping[str, str], folders: tuple[Path, ...] = _SPECS) -> list[str]:
    """Arguments that give a container all GPUs of the node, where it has any; blocking.

    Which of them a worker may use Ray tells by CUDA_VISIBLE_DEVICES, as outside of containers: its numbers
    are the node's, so all devices must be there.

    Args:
        environment: the raylet's; in it that variable may hide every GPU.
        folders: where specifications are.
    """
    if environment.get(_VISIBLE, "all") in _NONE or not any(map(_has_spec, folders)):
        return []
    return [f"--device={GPU_KIND}=all"]


def _has_spec(folder: Path) -> bool:
    try:
        files = [path for path in folder.iterdir() if path.suffix in {".json", ".yaml"}]
        return any(GPU_KIND in path.read_text(errors="replace") for path in files)
    except OSError:
        return False
