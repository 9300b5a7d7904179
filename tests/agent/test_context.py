"""What a worker is started with: merging, quoting and Ray's expansion of variables."""

import json
import os
import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_envd.agent.context import (
    Command,
    Container,
    Contribution,
    environment_script,
    merge,
    split_names,
)


def stock_update_envs(variables: dict[str, str], base: dict[str, str]) -> dict[str, str]:
    """What Ray does with env_vars before it starts the shell (ray/_private/utils.py, update_envs)."""
    saved = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(base)
        for name, value in variables.items():
            os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
        return dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(saved)


def shell_environment(script: str, base: dict[str, str]) -> dict[str, str]:
    """The environment that bash hands to a program after the script."""
    done = subprocess.run(
        ["/bin/bash", "-c", script + "exec /usr/bin/env -0"], env=base, capture_output=True, check=True
    )
    assert done.stderr == b""
    pairs = (item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    return dict(pairs)


BASE = {"PATH": "/usr/bin:/bin", "HOME": "/h o'me", "low": "x y $(z) *"}


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        'it\'s "quoted" `id` $(id) ; & | > < * ? ~ # !',
        "line\nbreak\ttab \\n \\ end\\",
        "$HOME and ${HOME}/x and ${low}$low",
        "${NOPE}|$NOPE|${nope}|$nope",
        "$$ $ ${} ${ ${HOME ${9A} ${1} $1x ${a-b} ${HOME:-x}",
        "ünïcode ${HOME}é $HOMEé",
    ],
)
def test_the_environment_file_means_what_stock_means(value: str) -> None:
    """Whatever stands in a value arrives at the worker exactly as Ray's own expansion would leave it."""
    expected = stock_update_envs({"V": value}, BASE)["V"]
    assert shell_environment(environment_script({"V": value}), BASE)["V"] == expected


@given(st.text(alphabet=st.sampled_from("${}AaH9_'\"\\ `;&|\n-:xHOME"), max_size=30))
def test_no_value_escapes_its_quotes(value: str) -> None:
    """Any mix of the shell's special characters is data, with stock's expansion and nothing else."""
    shell, inline = split_names({"V": value})
    expected = stock_update_envs({"V": value}, BASE)["V"]
    if shell:
        assert shell_environment(environment_script(shell), BASE)["V"] == expected
    else:
        assert inline == {"V": value}  # Ray expands it itself


def test_later_variables_see_earlier_ones() -> None:
    """As in stock, variables are set in order."""
    variables = {"A": "one", "B": "${A} two", "PATH": "/mine:${PATH}"}
    seen = shell_environment(environment_script(variables), BASE)
    assert (seen["B"], seen["PATH"]) == ("one two", "/mine:/usr/bin:/bin")


def test_names_that_no_shell_can_set_are_told_apart() -> None:
    """They stay in the context's own env_vars."""
    assert split_names({"A_1": "x", "A-B": "y", "c.d": "z"}) == ({"A_1": "x"}, {"A-B": "y", "c.d": "z"})


@pytest.mark.parametrize("name", ["UID", "EUID", "PPID", "SHELLOPTS", "BASH_VERSINFO", "IFS", "_"])
def test_variables_that_bash_owns_are_left_to_ray(name: str) -> None:
    """Setting them in a shell fails or changes it; reading them there sees what the environment has not."""
    assert split_names({name: "x"}) == ({}, {name: "x"})
    assert split_names({"V": f"a ${{{name}}}"}) == ({}, {"V": f"a ${{{name}}}"})


def test_what_ray_sets_first_has_what_it_refers_to() -> None:
    """A variable that Ray expands may refer to an earlier one, directly or not: that goes with it."""
    variables = {"A": "1", "B": "${A}", "C": "x", "D-E": "${B} ${Z}", "Z": "later"}
    assert split_names(variables) == (
        {"C": "x", "Z": "later"},
        {"A": "1", "B": "${A}", "D-E": "${B} ${Z}"},
    )


def test_paths_are_merged_in_stocks_order() -> None:
    """PYTHONPATH: modules, working dir, the user's own, the cluster's; PATH gets the env's programs first."""
    context = merge(
        [
            Contribution(python_path=("/wd",), working_dir="/wd"),
            Contribution(
                path=("/venv/bin",),
                variables={"VIRTUAL_ENV": "/venv"},
                command=Command(("/venv/bin/python",)),
            ),
            Contribution(python_path=("/m1", "/m2")),
        ],
        python="/ray/bin/python",
        env_vars={"PYTHONPATH": "/user", "X": "1"},
        raylet_environment={"PYTHONPATH": "/cluster"},
    )
    assert context.variables["PYTHONPATH"] == "/m1:/m2:/wd:/user:/cluster"
    assert context.variables["PATH"] == "/venv/bin:${PATH}"
    assert context.command.words == ("/venv/bin/python",)
    assert context.working_dir == "/wd"


def test_in_a_container_paths_are_the_images() -> None:
    """The raylet's PYTHONPATH names folders that the image has not; the image's own stays."""
    container = Container((), (), {}, "id", "/img/python", "/img/default_worker.py", python_path="/img/lib")
    parts = [Contribution(container=container), Contribution(python_path=("/wd",), path=("/venv/bin",))]
    context = merge(parts, python="/ray/python", env_vars={}, raylet_environment={"PYTHONPATH": "/cluster"})
    assert context.variables == {"PYTHONPATH": "/wd:/img/lib", "PATH": "/venv/bin:${PATH}"}
    assert context.command.words == ("/img/python",)
    whole = json.loads(context.serialize_launch("/l.py", "/the plan"))
    assert whole["py_executable"] == "/ray/python -I -S /l.py '/the plan'"
    assert (whole["command_prefix"], whole["env_vars"]) == ([], {})


def test_the_context_is_rays_and_quotes_its_paths() -> None:
    """The JSON has exactly Ray's fields; a path with a quote cannot break out of the prefix."""
    context = merge(
        [Contribution(working_dir="/tmp/it's; here")],
        python="/ray py/python",
        env_vars={},
        raylet_environment={},
    )
    whole = json.loads(context.serialize("/env file", {"A-B": "1"}))
    assert whole == {
        "command_prefix": [".", "'/env file'", "&&", "cd", "'/tmp/it'\"'\"'s; here'", "&&"],
        "env_vars": {"A-B": "1"},
        "py_executable": "'/ray py/python'",
        "override_worker_entrypoint": None,
        "java_jars": [],
    }


def test_values_do_not_stand_in_the_context() -> None:
    """Ray puts the context on a command line; values of env_vars must not be there."""
    context = merge([], python="/p", env_vars={"TOKEN": "canary-in-argv"}, raylet_environment={})
    shell, inline = split_names(context.variables)
    assert "canary" not in context.serialize("/file", inline)
    assert "canary" in environment_script(shell)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo a b", "a b"),
        ("echo 'a  b'", "a  b"),
        ("echo $NAME ${NAME}", "v w v w"),
        ("echo a; echo b", "a; echo b"),
        ("echo $(id) `id` > /nowhere && x", "$(id) `id` > /nowhere && x"),
    ],
)
def test_py_executable_stays_one_command(command: str, output: str) -> None:
    """Arguments and variables keep their meaning; nothing else of the shell does."""
    done = subprocess.run(
        ["/bin/bash", "-c", f"exec {Command.of(command).shell()}"],
        env={"NAME": "v w", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == output


def test_unbalanced_quotes_are_refused() -> None:
    """They cannot be one command."""
    with pytest.raises(ValueError, match="quot"):
        Command.of("python 'x")
