"""doctor on a Ray, and all of it as a command."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_daemon import FakeDaemon
from findings import is_bad, settings_of
from ray_installation import Installation

from ray_envd.agent import attach
from ray_envd.agent.cli import cli
from ray_envd.agent.doctor import Finding, Level, examine, interpreter, settings_finding, store
from ray_envd.cache.owner import Owner

pytestmark = pytest.mark.usefixtures("without_podman")
ROOT = os.geteuid() == 0


# Ray


def test_how_a_ray_stands(ray: Installation, short_tmp: Path) -> None:
    """Not attached, attached, to another socket, supervised without a daemon, installed anew."""
    control = short_tmp / "d.sock"
    link = short_tmp / "d.sock.link"

    def look(*, answers: bool = False) -> Finding:
        return interpreter.ray(ray.python, control, asked_for=True, daemon_answers=answers)

    finding = look()
    is_bad(finding, Level.WARN, "Ray 2.60.0 is not attached")
    assert finding.remedy == f"run `ray-envd attach --python {ray.python}`"
    attach.attach(ray.python, socket=link, daemon=[sys.executable])
    assert look().level is Level.OK
    attach.attach(ray.python, socket=short_tmp / "other.link", daemon=[sys.executable])
    is_bad(look(), Level.WARN, "other.link")
    attach.attach(ray.python, socket=link, daemon=None)
    is_bad(look(), Level.WARN, "supervised")
    assert look(answers=True).level is Level.OK
    ray.install("2.60.0", b"print('newer stock')\n")
    is_bad(look(), Level.WARN, "not attached any more")


def test_an_interpreter_without_ray(tmp_path: Path) -> None:
    """A failure if it was named, a warning if it only is the one on the PATH."""
    for asked_for, level in ((True, Level.FAIL), (False, Level.WARN)):
        finding = interpreter.ray(
            Path(sys.executable), tmp_path / "s", asked_for=asked_for, daemon_answers=True
        )
        is_bad(finding, level, "Ray")


# the command


def test_a_check_that_cannot_be_made_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails unexpectedly takes nothing else with it."""

    def broken(_: Path) -> Finding:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(store, "inodes", broken)
    findings = {each.check: each for each in examine(settings_of(tmp_path), [Path(sys.executable)])}
    is_bad(findings["inodes"], Level.FAIL, "may not look (/x)")
    assert findings["disk space"].level is not Level.FAIL


def test_settings_are_a_finding() -> None:
    """Warnings of unknown variables stand among the others."""
    assert settings_finding((), "no config file").level is Level.OK
    is_bad(settings_finding(("RAY_ENVD_X is no setting",), ""), Level.WARN, "RAY_ENVD_X")


def invoke(*args: str, **environ: str) -> tuple[int, str]:
    clean: dict[str, str | None] = {k: None for k in os.environ if k.startswith("RAY_ENVD_")}
    done = CliRunner().invoke(cli, ["doctor", *args], env={**clean, **environ})
    return done.exit_code, done.stdout


def test_doctor_tells_all_and_exits_by_the_worst(
    fake: FakeDaemon, daemon_socket: Path, tmp_path: Path, ray: Installation
) -> None:
    """Warnings are exit code 0, a failure is 1; as JSON a list of findings."""
    tmp_path.chmod(0o700)
    common = ("--socket", str(daemon_socket), "--store", str(tmp_path), "--python", str(ray.python))
    code, text = invoke(*common, RAY_ENVD_HTTP="none", RAY_ENVD_MIN_FREE="0")
    assert code == 0
    assert "ok   daemon: version 0.1.0, pid 4242" in text
    assert "warn ray of " in text
    assert f"     remedy: run `ray-envd attach --python {ray.python}`" in text
    code, text = invoke(*common, "--json", RAY_ENVD_MIN_FREE="99.99%")
    assert code == 1
    failed = [each for each in json.loads(text) if each["level"] == "fail"]
    assert [each["check"] for each in failed] == ["disk space"]
    assert all(set(each) == {"check", "level", "found", "remedy"} for each in json.loads(text))


def test_containers_are_tried_as_whom_one_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user, with nothing of our environment, and registries; one whom nobody knows is an error."""
    asked: list[tuple[str, int, tuple[str, ...]]] = []

    def look(owner: Owner, environment: Mapping[str, str], addresses: Sequence[str]) -> list[Finding]:
        asked.append((owner.name, len(environment), tuple(addresses)))
        return [Finding("containers", Level.FAIL, "broken", "mend it")]

    monkeypatch.setattr("ray_envd.agent.doctor.containers.examine", look)
    common = ("--socket", "/tmp/no.sock", "--store", str(tmp_path))
    registry = "127.0.0.1:5000"
    code, text = invoke(*common, "--registry", registry, RAY_ENVD_HTTP="none")
    assert (code, asked[0][2]) == (1, (registry,))
    assert asked[0][1] > 1
    assert "fail containers: broken" in text
    if ROOT:
        invoke(*common, "--user", "nobody", RAY_ENVD_HTTP="none")
        assert asked[1] == ("nobody", 0, ())
    code, _ = invoke(*common, "--user", "nobody-of-this-name")
    assert (code, len(asked)) == (1, 1 + ROOT)


def test_doctor_finds_wrong_settings() -> None:
    """They are its first finding, and no reason to give up with a usage error."""
    code, text = invoke(RAY_ENVD_MIN_FREE="x")
    assert code == 1
    assert "fail settings: min_free is 'x' (RAY_ENVD_MIN_FREE)" in text
