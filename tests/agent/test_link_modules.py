"""The link's modules as Python loads them: from bytecode if it is whole, else from source, or not at all."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import interpreters
from link_node import PATIENCE, Node, get

from ray_envd.agent.link import plain_json


def loaded(node: Node, python: str = sys.executable, words: tuple[str, ...] = ()) -> dict[str, str]:
    """Runs a link that is served by a daemon; for each of its modules, the end of the file it came from."""
    daemon = node.daemon()
    argv = [python, "-v", *words, *node.argv()[1:]]
    process = node.run(argv, stderr=subprocess.PIPE)
    assert get(node.port()) == str(daemon.pid)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    found = re.findall(rf"# code object from '?{node.package}/(\S+?)'?$", said.decode(), re.MULTILINE)
    return {Path(name).name.partition(".")[0]: name for name in found}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).resolve().name)
def test_modules_come_from_bytecode(node: Node, python: str) -> None:
    """Each interpreter takes that which attach had it compile, all of it."""
    node.install(python)
    names = {path.stem for path in node.package.glob("*.py")}
    found = loaded(node, python)
    assert found.keys() == names
    assert all(name.endswith(".pyc") for name in found.values()), found


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONDONTWRITEBYTECODE": "1"}, {"PYTHONSAFEPATH": "1", "PYTHONPYCACHEPREFIX": "{folder}/elsewhere"}],
    ids=["B", "elsewhere"],
)
def test_a_clusters_own_words_to_python_change_nothing(node: Node, variables: dict[str, str]) -> None:
    """Not where Python may write no bytecode, nor where it has it apart, nor without the script's folder."""
    node.environment.update({name: value.format(folder=node.folder) for name, value in variables.items()})
    found = loaded(node)
    assert found
    assert all(name.endswith(".pyc") for name in found.values()), found
    assert not list(node.folder.glob("elsewhere/**/ray_envd_link_*"))


@pytest.mark.parametrize("what", ["short", "one bit", "one is missing", "no checksum", "another Python's"])
def test_modules_come_from_source_where_bytecode_is_not_whole(node: Node, what: str) -> None:
    """Damaged bytecode is never run, and nothing is written into Ray's folder instead."""
    path = next(node.package.glob("__pycache__/session.*.pyc"))
    content = path.read_bytes()
    if what == "short":
        path.write_bytes(content[:-200])
    elif what == "one bit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :])
    elif what == "one is missing":
        path.unlink()
    elif what == "no checksum":
        next(node.package.glob("__pycache__/*.crc")).unlink()
    else:
        for file in node.package.glob("__pycache__/*"):
            file.rename(file.with_name(file.name.replace(str(sys.implementation.cache_tag), "cpython-27")))
    before = files(node.agent)
    found = loaded(node)
    assert found
    assert all(name.endswith(".py") for name in found.values()), found
    assert files(node.agent) == before


def test_bytecode_of_another_source_is_not_run(node: Node) -> None:
    """A module that somebody has changed is what runs, although its bytecode is whole."""
    path = node.package / "plain_json.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    found = loaded(node)
    assert found.pop("plain_json") == "plain_json.py"
    assert all(name.endswith(".pyc") for name in found.values()), found


@pytest.mark.parametrize("what", ["gone", "one is gone", "nonsense", "no bytecode and nonsense"])
def test_broken_modules_end_in_the_stock_agent(node: Node, what: str) -> None:
    """Whatever the modules are, the raylet gets Ray's own agent with its own words, and stderr says why."""
    package = node.package
    if what == "gone":
        package.rename(node.folder / "away")
    elif what == "one is gone":
        (package / "starter.py").unlink()
    else:
        (package / "starter.py").write_text("this is no Python\n")
        if what != "nonsense":
            for path in package.glob("__pycache__/*"):
                path.unlink()
    process = node.link(node.flags(), stderr=subprocess.PIPE)
    stock = node.stock()
    assert stock["pid"] == process.pid
    assert stock["argv"][1:] == node.flags()
    process.kill()
    assert process.stderr is not None
    assert b"ray-envd's link is broken, attach again" in process.stderr.read()


@pytest.mark.parametrize("module", ["_json", "json"])
def test_json_is_that_of_the_standard_library(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Written and read alike by Python's own, by its C functions or, where they are not there, by itself."""
    functions = vars(plain_json)
    if module == "json":
        monkeypatch.setitem(sys.modules, "_json", None)
        functions = runpy.run_path(str(plain_json.__file__))
        assert "json" in functions
    import json  # noqa: PLC0415 - to be loaded where it is compared

    value = {"a": 'é\udc80\n"\\', "b": {"c": [1, -2, None, True, False], "": 0.5}, "e": {}}
    text = functions["dumps"](value)
    assert text == json.dumps(value)
    assert functions["loads"](f" {text}\r\n") == value
    for wrong in ("", "{", "[]", "1", "{} {}", '{"a": nul}', '{"a" 1}', "é"):
        with pytest.raises(ValueError):  # noqa: PT011 - as json itself
            functions["loads"](wrong)
