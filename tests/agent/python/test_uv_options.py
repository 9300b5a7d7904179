"""Which of uv's options go where, and that uv knows those that the tables name."""

import re
import subprocess
from typing import Any

import pytest
from package_world import UV, Kit

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python import uv_options
from ray_envd.agent.python.spec import parse_uv


def spec(*options: str, packages: tuple[str, ...] = ("tiny",)) -> Any:
    """A uv field with these options."""
    return parse_uv({"packages": list(packages), "uv_pip_install_options": list(options)})


def test_every_option_of_uv_stands_in_a_table() -> None:
    """A new uv with a new option makes this fail, so that somebody decides about it."""
    text = subprocess.run([UV, "pip", "install", "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)
    assert len(names) > 50
    aliases = {"--requirements": "--requirement", "--constraints": "--constraint"}
    assert {name for name in names if aliases.get(name, name) not in uv_options._KNOWN} == set()


@pytest.mark.parametrize(("name", "takes_value"), uv_options.REFUSED.items())
async def test_what_installs_elsewhere_is_refused(kit: Kit, name: str, *, takes_value: bool) -> None:
    """Options that would leave the worker's environment alone are an invalid spec that names them."""
    with pytest.raises(InvalidSpecError, match=name) as caught:
        await kit.request(spec(*([name, "/x"] if takes_value else [name])))
    assert caught.value.field == "uv"


@pytest.mark.parametrize(("name", "takes_value"), uv_options.NO_OPS.items())
async def test_no_ops_change_nothing(kit: Kit, name: str, *, takes_value: bool) -> None:
    """A no-op, such as stock's default --no-cache, leaves the key as it is."""
    interpreter = await kit.interpreter()
    with_it = await kit.request(spec(*([name, "x"] if takes_value else [name])))
    assert with_it.digest(interpreter, {}) == (await kit.request(spec())).digest(interpreter, {})


async def test_other_options_pass_as_they_are(kit: Kit) -> None:
    """Resolution's options go to the resolution, the others to both runs."""
    options = (await kit.request(spec("--resolution=lowest", "--no-build", "-C", "a=b"))).options
    assert options.resolve == ("--resolution", "lowest")
    assert options.both == ("--no-build", "-C", "a=b")


async def test_addresses_go_by_the_environment(kit: Kit) -> None:
    """An index with credentials stands in no argument; an option overrides the node's own variable."""
    kit.environment |= {
        "UV_INDEX_URL": "https://node/s",
        "UV_EXTRA_INDEX_URL": "https://more/s",
        "TOKEN": "canary7",
    }
    given = spec("--index-url", "https://u:$TOKEN@h/s", "--find-links=/a", "-f", "/b")
    options = (await kit.request(given)).options
    assert options.variables["UV_INDEX_URL"] == "https://u:canary7@h/s"
    assert options.variables["UV_FIND_LINKS"] == "/a,/b"
    assert options.variables["UV_EXTRA_INDEX_URL"] == "https://more/s"
    assert "canary7" not in " ".join((*options.both, *options.resolve, *options.transport))


@pytest.mark.parametrize(
    "words",
    [["--overrides", "https://u:canary7@h/o.txt"], ["-C", "key=$TOKEN"], ["--unknown=https://u:canary7@h"]],
)
async def test_a_secret_in_any_other_option_is_refused(kit: Kit, words: list[str]) -> None:
    """It would stand in the process list; the message does not repeat it."""
    kit.environment |= {"TOKEN": "canary7"}
    with pytest.raises(InvalidSpecError, match="process list") as caught:
        await kit.request(spec(*words))
    assert "canary7" not in str(caught.value)


async def test_pips_configuration_does_not_reach_the_uv_field(kit: Kit) -> None:
    """PIP_* is for the pip field."""
    kit.environment |= {"PIP_INDEX_URL": "https://other/simple"}
    assert (await kit.request(spec())).options.sources.indexes == ("",)


async def test_a_bare_word_is_a_requirement(kit: Kit) -> None:
    """A package named among the options is installed like the others, in both fields."""
    request = await kit.request(spec("dep==1.0"))
    assert [r.text for r in request.requirements] == ["tiny", "dep==1.0"]
