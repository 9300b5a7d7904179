"""Reading requirement lines as pip reads them."""

from pathlib import Path

import pytest

from ray_envd.agent.errors import InvalidSpecError
from ray_envd.agent.python.requirements import parse
from ray_envd.agent.python.requirements_file import Contents, Option, Reader
from ray_envd.agent.python.spec import Field

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHA = "a" * 64


def read(*lines: str, field: Field = "pip", **environment: str) -> Contents:
    """The lines, read."""
    reader = Reader(field, environment)
    reader.read(lines)
    return reader.contents


def test_comments_continuations_and_blank_lines() -> None:
    """A comment needs a space before it, a backslash joins, a blank line is nothing."""
    found = read("a==1 # no", "# nothing", "", "b \\\n>=2", "c @ https://h/c.whl#egg=c")
    assert [r.text for r in found.requirements] == ["a==1", "b >=2", "c @ https://h/c.whl#egg=c"]


def test_nested_files_are_one_flat_list(tmp_path: Path) -> None:
    """-r and -c are followed, relative to the file that names them; constraints stay constraints."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "top.txt").write_text("one\n-r deep/more.txt\n--constraint=deep/limits.txt\n")
    (tmp_path / "deep/more.txt").write_text("two\n--pre\n./local.whl\n")
    (tmp_path / "deep/limits.txt").write_text("one<5\n")
    found = read(f"-r {tmp_path}/top.txt", f"--requirement file://{tmp_path}/deep/more.txt")
    assert [r.text for r in found.requirements] == [
        "one",
        "two",
        f"{tmp_path}/deep/local.whl",
        "two",
        f"{tmp_path}/deep/local.whl",
    ]
    assert [r.text for r in found.constraints] == ["one<5"]
    assert found.options == [Option("--pre"), Option("--pre")]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    """A cycle of files is an error and not an endless loop."""
    (tmp_path / "a.txt").write_text("-r b.txt\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n")
    with pytest.raises(InvalidSpecError, match="includes itself"):
        read(f"-r {tmp_path}/a.txt")


@pytest.mark.parametrize("line", ["-r /nonexistent/r.txt", "-r relative.txt", "-r /dev/zero", "./pkg", "a=1"])
def test_what_names_nothing_is_refused(line: str) -> None:
    """A missing or relative file, a device and a malformed requirement are errors with a remedy."""
    with pytest.raises(InvalidSpecError) as caught:
        read(line)
    assert caught.value.field == "pip"
    assert caught.value.remedy


def test_pip_expands_capital_braces_only() -> None:
    """Pip's rule: ${NAME} if it is set and not empty; $NAME and ${name} stay."""
    found = read("a==${V}", "--find-links $V/${v}/${EMPTY}", V="1.0", v="x", EMPTY="")
    assert found.requirements[0].text == "a==1.0"
    assert found.options[0].value == "$V/${v}/${EMPTY}"


def test_uv_field_expands_both_forms() -> None:
    """Stock's rule for the uv field: $NAME and ${NAME}, and what is not set stays."""
    found = read("a==$V", "--find-links ${v}/$NOT", field="uv", V="1.0", v="/x")
    assert found.requirements[0].text == "a==1.0"
    assert found.options[0].value == "/x/$NOT"


def test_hashes_and_options_of_a_line() -> None:
    """Per-requirement options are parted from the requirement."""
    found = read(f"a==1 --hash=sha256:{SHA} --hash sha256:{SHA} --config-settings=x=y")
    assert found.requirements[0].hashes == (f"sha256:{SHA}", f"sha256:{SHA}")
    assert found.requirements[0].options == ("--config-settings=x=y",)
    assert found.requirements[0].text == "a==1"


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("a==1.0", True),
        ("a===1.0", True),
        ("a==1.*", False),
        ("a>=1", False),
        ("a", False),
        ("/srv/a.whl", True),
        ("a @ https://h/a-1.whl", False),
        (f"a @ https://h/a-1.whl#sha256={SHA}", True),
        ("git+https://h/a@main", False),
        (f"git+https://h/a@{COMMIT}", True),
        (f"git+https://h/a@{COMMIT}#subdirectory=x", True),
    ],
)
def test_what_can_mean_only_one_version_is_exact(text: str, *, exact: bool) -> None:
    """Exact is ==, ===, local content, a hash or a whole commit."""
    assert parse(text, None).exact is exact


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Foo_Bar==1.0", "foo.bar == 1"),
        ("foo[B,a]>=1,<2", "foo[a,b] <2, >=1.0"),
        ('foo; python_version>"3"', "foo ; python_version > '3'"),
    ],
)
def test_spellings_of_one_requirement_are_equal(one: str, other: str) -> None:
    """Names, extras, specifiers, versions and markers are compared by meaning."""
    assert parse(one, None).canonical == parse(other, None).canonical


def test_a_local_file_is_known_by_its_content() -> None:
    """The same archive in two folders is one thing; another archive in the same place is another."""
    one, other = parse("/a/x-1.whl", None), parse("/b/x-1.whl", None)
    digests = {Path("/a/x-1.whl"): "D", Path("/b/x-1.whl"): "D"}
    assert one.identity(digests) == other.identity(digests)
    assert one.identity(digests) != one.identity({Path("/a/x-1.whl"): "E"})
