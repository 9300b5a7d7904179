"""The warm file: what it may say, and what is said of one that is wrong."""

import json
import os
from pathlib import Path

import pytest

from ray_envd.agent.config import ConfigError
from ray_envd.agent.warm_file import Wanted, load

WHOLE = """
python = "/opt/ray/bin/python"
environment = { A = "1" }

[[envs]]
runtime_env = { pip = ["six==1.16.0"], env_vars = { B = "2" } }

[[envs]]
name = "other"
python = "/other"
user = "bob"
pin = false
environment = {}
[envs.runtime_env]
image = "registry:5000/app:1"
"""


def written(folder: Path, text: str, name: str = "warm.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_env_says_for_itself_or_takes_what_stands_above_all(tmp_path: Path) -> None:
    """Interpreter, user, pin and environment; titles show the fields, never values."""
    one, other = load(written(tmp_path, WHOLE))
    assert json.loads(one.wish.serialized) == {"pip": ["six==1.16.0"], "env_vars": {"B": "2"}}
    assert (one.title, one.pin) == ("envs[0] (pip, env_vars)", True)
    assert (one.wish.python, one.wish.user, one.wish.environment) == ("/opt/ray/bin/python", "", {"A": "1"})
    assert (other.title, other.pin) == ("other", False)
    assert (other.wish.python, other.wish.user, other.wish.environment) == ("/other", "bob", {})


def test_json_says_the_same(tmp_path: Path) -> None:
    """By the file's name; equal entries have equal digests, whatever they are called."""
    env = {"runtime_env": {"env_vars": {"B": "2"}, "pip": ["six==1.16.0"]}, "name": "named"}
    text = json.dumps({"python": "/opt/ray/bin/python", "environment": {"A": "1"}, "envs": [env]})
    (one,) = load(written(tmp_path, text, "warm.json"))
    assert one.digest == load(written(tmp_path, WHOLE))[0].digest
    assert one.digest != load(written(tmp_path, WHOLE.replace("six==1.16.0", "six")))[0].digest
    assert one.digest != load(written(tmp_path, WHOLE.replace('A = "1"', 'A = "2"')))[0].digest


def test_no_file_and_an_empty_one_want_nothing(tmp_path: Path) -> None:
    """A file that is there and empty is no mistake."""
    assert Wanted.at(None).envs == ()
    assert Wanted.at(written(tmp_path, "")).envs == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[envs]]\nruntime_env = {\n", r"is not TOML: .*line 2"),
        ("[[env]]\nruntime_env = {}\n", "'env' is not known"),
        ("envs = 3\n", "'envs' must be a list of tables"),
        ("envs = [3]\n", r"envs\[0\] must be a table"),
        ("[[envs]]\nruntime_env={}\n[[envs]]\nname='b'\n", r"envs\[1\] \(b\) has no 'runtime_env'"),
        ("[[envs]]\nname = 'a'\nruntime_env = '{}'\n", r"envs\[0\] \(a\): 'runtime_env' must be a table"),
        ("[[envs]]\nruntime_env = {}\npinned = true\n", r"envs\[0\]: 'pinned' is not known"),
        ("[[envs]]\nruntime_env = {}\npin = 'yes'\n", "'pin' must be true or false"),
        ("[[envs]]\nruntime_env = {}\npython = 'python3'\n", "'python3' is no absolute path"),
        ("[[envs]]\nruntime_env = {}\nenvironment = { A = 1 }\n", "'A' cannot stand in an environment"),
        ("[[envs]]\nruntime_env = { pip = [1979-05-27] }\n", r"envs\[0\]: 'runtime_env': .*date"),
        ("[[envs]]\nruntime_env = { x = inf }\n", r"envs\[0\]: 'runtime_env'"),
    ],
)
def test_a_wrong_file_is_refused_by_line_or_entry(tmp_path: Path, text: str, reason: str) -> None:
    """With the file's name and a remedy, as any wrong setting."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    """Missing, not UTF-8, not JSON, no object."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match=r"is not JSON: .*line 1"):
        load(written(tmp_path, '{"envs": [', "a.json"))
    with pytest.raises(ConfigError, match="is no JSON object"):
        load(written(tmp_path, "[]", "b.json"))


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """They could have packages built, which is to run code, as any user."""
    path = written(tmp_path, "")
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="others may write"):
        load(path)
    if os.geteuid() == 0:
        os.chown(path, 41000, 41000)
        path.chmod(0o644)
        with pytest.raises(ConfigError, match="belongs to uid 41000"):
            load(path)
