"""Programs that the daemon runs, and what the kernel lets them do."""

import subprocess
from pathlib import Path

from ray_envd.agent.doctor.finding import Finding, fail, ok, warn

_SECONDS = 10
_NOBODY = 65534
_SYSCTLS = Path("/proc/sys")


def uv(binary: str | None) -> Finding:
    """Every Python environment is made by it."""
    remedy = "install it into ray-envd's own environment: `pip install uv`"
    if binary is None:
        return fail("uv", "there is no uv beside ray-envd nor on the PATH", remedy)
    version, problem = _version(binary)
    if problem:
        return fail("uv", f"{binary} does not run: {problem}", remedy)
    return ok("uv", f"{version} ({binary})")


def _version(binary: str) -> tuple[str, str]:
    """The first line of ``--version``, or what is wrong."""
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        return "", f"exit code {done.returncode}"
    return (done.stdout.strip().splitlines() or ["unknown version"])[0], ""


def user_namespaces(sysctls: Path = _SYSCTLS) -> Finding:
    """Rootless podman needs them, and so do some builds."""
    for name, blocked, remedy in (
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for podman",
        ),
    ):
        try:
            value = (sysctls / name).read_text().strip()
        except OSError:
            continue  # this kernel has no such switch
        if value == blocked:
            found = f"{name.replace('/', '.')} is {value}: users may not make them"
            return warn("user namespaces", found, f"{remedy} (only containers need them)")
    return ok("user namespaces", "users may make them")


def other_users(interpreter: str, uid: int = _NOBODY) -> Finding:
    """A daemon of root fetches and builds as the users whose raylets ask. For root only."""
    probe = [interpreter, "-I", "-c", "import ray_envd.agent.fetcher"]
    try:
        done = subprocess.run(
            probe,
            user=uid,
            group=uid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        problem = "" if done.returncode == 0 else f"exit code {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        return warn(
            "other users",
            f"they cannot run {interpreter}: {problem}",
            "install ray-envd and its Python where every user may read them, e.g. in /opt with the system's"
            " Python; needed only where raylets of other users than root use this daemon",
        )
    return ok("other users", "they can run what the daemon runs for them")
