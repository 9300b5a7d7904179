"""``attach``, ``detach``, ``config`` and ``doctor``: setting up a node and looking at it."""

import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from ray_envd.agent.cli import tables
from ray_envd.agent.cli.common import (
    CliError,
    Exit,
    State,
    console,
    interpreter_path,
    pass_state,
    print_json,
    shared_options,
)
from ray_envd.agent.config import TABLE, ConfigError, Settings, link_socket
from ray_envd.agent.config_sources import Loaded, Value, reference_table
from ray_envd.cache.owner import Owner
from ray_envd.cache.text import bytes_text

if TYPE_CHECKING:
    from ray_envd.agent.attach import AttachReport, Status
    from ray_envd.agent.doctor import Finding

#: Seconds without a session after which a daemon that a link started ends.
IDLE_EXIT = "600"
_python = click.option(
    "--python",
    required=True,
    metavar="PATH",
    help="The interpreter that runs Ray; a name is looked up on the PATH.",
)
_store = click.option("--store", metavar="PATH", help="The daemon's store.")


# attach and detach


@click.command()
@_python
@click.option(
    "--status",
    "show_status",
    is_flag=True,
    help="Change nothing; say how it stands (exit code 1: not attached).",
)
@click.option("--force", is_flag=True, help="Also a version of Ray that is not known.")
@click.option("--supervised", is_flag=True, help="systemd runs the daemon: the link must not start one.")
@_store
@shared_options
@pass_state
def attach(
    state: State, /, *, python: str, show_status: bool, force: bool, supervised: bool, store: str | None
) -> int:
    """Make the Ray of an interpreter use ray-envd.

    Raylets that start from now on do; those that run are not touched. Ray's own agent is kept beside the
    link: a node whose daemon cannot be had falls back on it, and `detach` restores it.
    """
    from ray_envd.agent import attach as module  # noqa: PLC0415 - its error is caught here

    loaded = state.load(store=store)
    path = Path(interpreter_path(python))
    try:
        if show_status:
            return _show_status(state, module.status(path))
        report = module.attach(
            path,
            socket=_link_socket(loaded),
            daemon=None if supervised else _daemon_argv(loaded),
            force=force,
        )
    except module.AttachError as error:
        raise CliError(error.message, error.remedy, code="attach") from None
    _show_report(state, report)
    return Exit.OK


@click.command()
@_python
@shared_options
@pass_state
def detach(state: State, /, *, python: str) -> None:
    """Give an interpreter's Ray its own agent back.

    Raylets that run keep using ray-envd until they end.
    """
    from ray_envd.agent import attach as module  # noqa: PLC0415 - its error is caught here

    try:
        report = module.detach(Path(interpreter_path(python)))
    except module.AttachError as error:
        raise CliError(error.message, error.remedy, code="detach") from None
    _show_report(state, report)


def _link_socket(loaded: Loaded) -> Path | None:
    """Only one that somebody chose: the default differs from user to user, and the link knows it."""
    if loaded.values["socket"].source == "default":
        return None
    return link_socket(loaded.settings.socket)


def _daemon_argv(loaded: Loaded) -> list[str]:
    """How a link starts a daemon. The socket is not in it: the link names its own."""
    # -P: what lies in the folder where a raylet was started is not ours to import.
    argv = [sys.executable, "-P", "-m", "ray_envd", "serve", "--idle-exit", IDLE_EXIT]
    if loaded.explicit_config:
        argv += ["--config", str(loaded.config)]
    if loaded.values["store"].source in {"flag", "variable"}:
        argv += ["--store", str(loaded.settings.store)]
    return argv


def _show_report(state: State, report: "AttachReport") -> None:
    if state.json:
        print_json(report)
        return
    what = report.action if report.changed else "nothing to do"
    click.echo(f"{what}: Ray {report.ray_version} in {report.agent_dir}")


def _show_status(state: State, status: "Status") -> int:
    code = Exit.OK if status.attached and not status.advice else Exit.FAILED
    if state.json:
        print_json(status)
        return code
    pairs = {
        "ray": f"{status.ray_version}{'' if status.known else ' (not a version that is known)'}",
        "folder": str(status.agent_dir),
        "attached": f"by ray-envd {status.link_version}" if status.attached else "no",
    }
    if status.attached:
        pairs["socket"] = str(status.socket or "the default of the raylet's user")
        pairs["daemon"] = " ".join(status.daemon or ("supervised",))
    if status.advice:
        pairs["advice"] = status.advice
    tables.show_pairs(pairs)
    return code


# config


@click.command()
@click.option("--reference", is_flag=True, help="Print every setting as a table in Markdown instead.")
@_store
@shared_options
@pass_state
def config(state: State, /, *, reference: bool, store: str | None) -> None:
    """Print the effective settings and where each came from.

    Flags of `serve` come before RAY_ENVD_* variables, these before the TOML file, that before the defaults.
    """
    if reference:
        click.echo(reference_table())
        return
    loaded = state.load(store=store)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if state.json:
        print_json({name: _as_dict(loaded, name, value) for name, value in loaded.values.items()})
        return
    columns = [tables.Column("SETTING"), tables.Column("VALUE", free=True), tables.Column("FROM", free=True)]
    rows = [(name, _shown(loaded, name, value), value.origin) for name, value in loaded.values.items()]
    tables.show(columns, rows, empty="")


def _as_dict(loaded: Loaded, name: str, value: Value) -> dict[str, Any]:
    made: dict[str, Any] = {"value": value.value, "source": value.source, "from": value.origin}
    if name in _SHARES:
        made["value"], made["bytes"] = value.text, _SHARES[name](loaded.settings)
    elif name == "kind_max":
        made["value"], made["bytes"] = value.text, loaded.settings.kind_bytes
    elif isinstance(value.value, tuple):
        made["value"] = value.text
    return {**made, "flag": TABLE[name].flag, "variable": TABLE[name].variable}


#: Settings that may be shares of the disk, in bytes.
_SHARES: dict[str, Callable[[Settings], int]] = {
    "max_bytes": attrgetter("budget_bytes"),
    "high_watermark": attrgetter("high_bytes"),
    "low_watermark": attrgetter("low_bytes"),
    "min_free": attrgetter("min_free_bytes"),
}


def _shown(loaded: Loaded, name: str, value: Value) -> str:
    if name in _SHARES:
        return f"{value.text} ({bytes_text(_SHARES[name](loaded.settings))})"
    return str(value.value) if isinstance(value.value, Path) else value.text


# doctor

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PATH",
    help="An interpreter that runs Ray; may be repeated  [default: python3]",
)
@click.option(
    "--user",
    metavar="NAME",
    help="Try containers as this user, whose raylets this node runs (root only)  [default: yourself]",
)
@click.option(
    "--registry",
    "registries",
    multiple=True,
    metavar="HOST[:PORT]",
    help="A registry of images that this node should reach; may be repeated.",
)
@_store
@shared_options
@pass_state
def doctor(
    state: State,
    /,
    *,
    pythons: tuple[str, ...],
    user: str | None,
    registries: tuple[str, ...],
    store: str | None,
) -> int:
    """Check this node; each finding comes with its remedy.

    Where podman is installed a container is started. The exit code is 1 if anything failed; warnings do not
    count.
    """
    from ray_envd.agent import doctor as module  # noqa: PLC0415 - it uses most of the other modules

    owner = _user(user) if user else None
    paths = [Path(interpreter_path(each)) for each in pythons]
    try:
        loaded = state.load(store=store)
    except ConfigError as error:
        # Without settings there is nothing to look at; the fault is a finding all the same.
        findings = [module.Finding("settings", module.Level.FAIL, str(error), error.remedy)]
    else:
        origin = str(loaded.config or "no config file")
        found = module.examine(loaded.settings, paths, owner, registries)
        findings = [module.settings_finding(loaded.warnings, origin), *found]
    if state.json:
        print_json([{**asdict(each), "level": each.level.value} for each in findings])
    else:
        _show_findings(findings)
    return Exit.FAILED if any(each.level is module.Level.FAIL for each in findings) else Exit.OK


def _user(name: str) -> Owner:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise CliError(f"there is no user {name!r}", code="user") from None
    owner = Owner.of(entry.pw_uid, entry.pw_gid)
    if not owner.is_current and os.geteuid():
        raise CliError("only root can act as another user", "run this as root", code="user")
    return owner


def _show_findings(findings: "list[Finding]") -> None:
    out = console()
    for each in findings:
        level = each.level.value
        out.print(
            Text.assemble((f"{level:<5}", _COLORS[level]), (f"{each.check}: ", "bold"), each.found),
            soft_wrap=True,
        )
        if each.remedy:
            out.print(Text.assemble("     ", ("remedy: ", "bold"), each.remedy), soft_wrap=True)
