"""Settings: their sources, their order, and what is said about wrong ones."""

import os
from dataclasses import fields
from pathlib import Path

import pytest

from ray_envd.agent.config import TABLE, ConfigError, Settings
from ray_envd.agent.config_sources import LONGEST_SOCKET, Loaded, load, reference_table


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def loaded(
    home: Path, flags: dict[str, str] | None = None, *, toml: str | None = None, **environ: str
) -> Loaded:
    """As a user, with a home of his own."""
    if toml is not None:
        (home / "c.toml").write_text(toml)
        environ["RAY_ENVD_CONFIG"] = str(home / "c.toml")
    base = {"HOME": str(home), "XDG_RUNTIME_DIR": "/run/user/7"}
    return load(flags, environ={**base, **environ}, root=False)


def refused(
    home: Path, flags: dict[str, str] | None = None, *, toml: str | None = None, **environ: str
) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        loaded(home, flags, toml=toml, **environ)
    return str(caught.value), caught.value.remedy


def test_flags_beat_variables_beat_the_file_beats_defaults(home: Path) -> None:
    """Each source counts only where no earlier one says anything; the origin is kept."""
    toml = 'min_free = "1GB"\nlog_level = "debug"\nlog_format = "json"\n'
    got = loaded(home, {"min_free": "3GB"}, toml=toml, RAY_ENVD_MIN_FREE="2GB", RAY_ENVD_LOG_LEVEL="error")
    settings, values = got.settings, got.values
    assert (settings.min_free_bytes, settings.log_level, settings.log_format) == (3 * 10**9, "error", "json")
    assert settings.drain_timeout == 30
    assert [values[name].origin for name in ("min_free", "log_level", "log_format", "drain_timeout")] == [
        "--min-free",
        "RAY_ENVD_LOG_LEVEL",
        f"{home / 'c.toml'}: log_format",
        "default",
    ]
    assert (got.config, got.explicit_config) == (home / "c.toml", True)


def test_defaults_for_root_and_for_a_user(home: Path) -> None:
    """Root's daemon lives in /var/lib and /run, a user's in his state folder and runtime folder."""
    root = load({}, environ={"HOME": "/root"}, root=True).settings
    assert (root.store, root.socket) == (Path("/var/lib/ray-envd"), Path("/run/ray-envd/ray-envd.sock"))
    user = loaded(home).settings
    assert (user.store, user.socket) == (
        home / ".local/state/ray-envd",
        Path("/run/user/7/ray-envd/ray-envd.sock"),
    )
    bare = load({"store": "/tmp/s"}, environ={"HOME": str(home)}, root=False).settings
    assert bare.socket == Path("/tmp/s/run/ray-envd.sock")
    moved = load({}, environ={"HOME": str(home), "XDG_STATE_HOME": "/tmp/x"}, root=False).settings
    assert moved.store == Path("/tmp/x/ray-envd")


def test_a_users_file_is_found_by_its_usual_place(home: Path) -> None:
    """~/.config/ray-envd/config.toml is read if it is there, and a missing one is no error."""
    assert loaded(home).config is None
    path = home / ".config/ray-envd/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("build_parallelism = 3\n")
    got = loaded(home)
    assert (got.settings.build_parallelism, got.config, got.explicit_config) == (3, path, False)
    elsewhere = home / "xdg/ray-envd/config.toml"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text("build_parallelism = 4\n")
    assert loaded(home, XDG_CONFIG_HOME=str(home / "xdg")).settings.build_parallelism == 4


def test_shares_are_of_the_disk(home: Path) -> None:
    """Also those of the watermarks, of what stays free and of the kinds; a store need not exist."""
    flags = {"max_bytes": "50%", "high_watermark": "40%", "low_watermark": "1kB", "min_free": "2%"}
    got = loaded(home, {**flags, "kind_max": "python=10%, archive=3GB"}).settings
    disk = os.statvfs(home)
    assert got.disk_bytes == disk.f_blocks * disk.f_frsize
    assert got.budget_bytes == int(got.disk_bytes * 0.5)
    assert got.high_bytes == int(got.disk_bytes * 0.4)
    assert got.low_bytes == 1000
    assert got.min_free_bytes == int(got.disk_bytes * 0.02)
    assert got.kind_bytes == {"python": int(got.disk_bytes * 0.1), "archive": 3 * 10**9}


def test_watermarks_follow_what_is_set(home: Path) -> None:
    """A budget in bytes needs no watermarks beside it, and a high watermark no low one."""
    disk = loaded(home).settings
    assert disk.low_bytes < disk.high_bytes < disk.budget_bytes
    assert disk.low_bytes == pytest.approx(0.8 * 0.99 * 0.995 * disk.disk_bytes, rel=1e-6)
    small = loaded(home, {"max_bytes": "1GB"}).settings
    assert (small.high_bytes, small.low_bytes) == (990 * 10**6, 985_050_000)
    high = loaded(home, {"max_bytes": "1GB", "high_watermark": "600MB"}).settings
    assert (high.high_bytes, high.low_bytes) == (600 * 10**6, 597 * 10**6)


def test_a_small_disk_keeps_less_free(home: Path) -> None:
    """A gibibyte, but never more than a twentieth of the disk."""
    settings = loaded(home).settings
    vars(settings)["disk_bytes"] = 100 * 2**20
    assert settings.min_free_bytes == 5 * 2**20
    vars(settings)["disk_bytes"] = 10**13
    assert settings.min_free_bytes == 2**30


def test_values_are_parsed(home: Path) -> None:
    """Addresses, none, switches, durations, numbers, and paths with a tilde."""
    toml = """
        http = "[::1]:0"
        http_allow_remote = true
        tcp = "none"
        idle_exit = "1h30m"
        resolution_ttl = 90
        archive_max_ratio = 2.5
        store = "~/s"
    """
    got = loaded(home, toml=toml).settings
    assert (got.http, got.http_allow_remote, got.tcp) == (("::1", 0), True, None)
    assert (got.idle_exit, got.resolution_ttl, got.archive_max_ratio) == (5400, 90, 2.5)
    assert got.store == Path("~/s").expanduser()
    assert loaded(home, {"python": "none"}, RAY_ENVD_PYTHON="/x").settings.python is None
    assert loaded(home, RAY_ENVD_PYTHON="/x/python").settings.python == "/x/python"
    assert loaded(home, RAY_ENVD_PYTHON="").settings.python is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max_bytes", "lots", "not a size"),
        ("max_bytes", "0", "nothing could be stored"),
        ("max_bytes", "120%", "at most 100"),
        ("min_free", "some", "not a size"),
        ("min_free", "100%", "the whole disk"),
        ("kind_max", "python", "'python' is not kind=size"),
        ("kind_max", "pyton=1GB", "'pyton' is none of python, archive"),
        ("kind_max", "python=1GB,python=2GB", "named twice"),
        ("kind_max", "python=lots", "'lots' of python: it is not a size"),
        ("kind_max", "python=101%", "at most 100"),
        ("drain_timeout", "soon", "not a duration"),
        ("build_parallelism", "0", "more than 0"),
        ("build_parallelism", "two", "not a number"),
        ("archive_max_ratio", "nan", "more than 0"),
        ("request_max_bytes", "0", "more than 0"),
        ("http", "8497", "not host:port"),
        ("http", "127.0.0.1:99999", "not host:port"),
        ("http", "::1:80", "brackets"),
        ("http", "0.0.0.0:80", "other machines"),
        ("http", "node.example:80", "other machines"),
        ("tcp", "127.0.0.1:1", "token"),
        ("log_level", "loud", "none of debug, info"),
        ("http_allow_remote", "maybe", "none of true"),
        ("store", "", "not a path"),
        ("socket", "/" + "x" * LONGEST_SOCKET, "room for"),
        ("high_watermark", "99999TB", "more than max_bytes"),
        ("high_watermark", "81%", "more than max_bytes"),
        ("low_watermark", "79.5%", "above high_watermark, "),
    ],
)
def test_a_wrong_value_is_named_with_its_origin_and_remedy(
    home: Path, name: str, value: str, reason: str
) -> None:
    """Setting, value, where it came from, why, and what to write."""
    message, remedy = refused(home, {name: value})
    assert message.startswith(f"{name} is {value!r} ({TABLE[name].flag}): ")
    assert reason in message
    assert remedy


def test_the_origin_of_a_wrong_value_is_where_it_was_written(home: Path) -> None:
    """A variable's name, or file and key."""
    assert "(RAY_ENVD_MIN_FREE)" in refused(home, RAY_ENVD_MIN_FREE="x")[0]
    assert f"({home / 'c.toml'}: min_free)" in refused(home, toml='min_free = "x"')[0]


def test_a_socket_of_the_longest_path_can_be_bound(home: Path) -> None:
    """The limit leaves room for every path that is made of the socket's."""
    path = "/" + "x" * (LONGEST_SOCKET - 1)
    assert str(loaded(home, {"socket": path}).settings.socket) == path
    assert len(f"{Path(path).parent}/.{Path(path).name}.12345678/grpc") - 1 <= 107
    assert len(f"{path}.link.{2**22}") <= 107


@pytest.mark.parametrize(
    ("toml", "message", "remedy"),
    [
        ("max_byte = 1", "there is no setting 'max_byte'", "did you mean max_bytes?"),
        ("zzz = 1", "there is no setting 'zzz'", "ray-envd config"),
        ("log_level = true", "wrong type", "write one of"),
        ("http_allow_remote = 1", "wrong type", "write true or false"),
        ("min_free = [1]", "wrong type", "write a size"),
        ("store = 'relative'", "relative path", "absolute"),
        ("store =", "is not TOML", "lines such as"),
    ],
)
def test_the_file_is_taken_at_its_word(home: Path, toml: str, message: str, remedy: str) -> None:
    """Unknown keys, wrong types and relative paths are errors."""
    got = refused(home, toml=toml)
    assert message in got[0]
    assert str(home / "c.toml") in got[0]
    assert remedy in got[1]


def test_a_file_that_was_named_must_be_there(home: Path) -> None:
    """By the flag and by the variable, and it must be readable."""
    assert "there is no config file" in refused(home, RAY_ENVD_CONFIG=str(home / "none.toml"))[0]
    assert "cannot be read" in refused(home, RAY_ENVD_CONFIG=str(home))[0]
    with pytest.raises(ConfigError, match="no config file"):
        load({}, config="none.toml", environ={"HOME": str(home)}, root=False)


def test_unknown_variables_are_warned_of(home: Path) -> None:
    """They may be another version's; the warning says what was perhaps meant."""
    (warning,) = loaded(home, RAY_ENVD_STOER="/x", RAY_OTHER="1", RAY_ENVD_STORE="/tmp/y").warnings
    assert "RAY_ENVD_STOER" in warning
    assert "did you mean RAY_ENVD_STORE?" in warning


def test_remote_http_and_tcp_can_be_had_on_purpose(home: Path) -> None:
    """With the switch, and with a token file."""
    token = home / "token"
    token.write_text(" secret\n")
    token.chmod(0o600)
    flags = {
        "http": "0.0.0.0:1",
        "http_allow_remote": "true",
        "tcp": "0.0.0.0:2",
        "tcp_token_file": str(token),
    }
    settings = loaded(home, flags).settings
    assert (settings.http, settings.tcp) == (("0.0.0.0", 1), ("0.0.0.0", 2))
    assert settings.tcp_token_file == token


def test_the_table_is_the_dataclass() -> None:
    """One row a field, and the README's table has every name."""
    assert list(TABLE) == [each.name for each in fields(Settings)]
    table = reference_table()
    for setting in TABLE.values():
        assert f"`{setting.flag}` | `{setting.variable}`" in table
        assert setting.help.endswith(".")


def test_waiting_for_no_warm_file_is_refused(home: Path) -> None:
    """Nobody would know what is waited for."""
    message, remedy = refused(home, {"ready_when_warm": "true"})
    assert "ready_when_warm is 'true' (--ready-when-warm)" in message
    assert "--warm-file" in remedy
    given = {"ready_when_warm": "true", "warm_file": str(home / "warm.toml")}
    assert loaded(home, given).settings.warm_file == home / "warm.toml"
