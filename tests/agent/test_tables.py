import pytest
from rich.cells import cell_len

from ray_envd.agent.cli.tables import Column, show

COLUMNS = [Column("ID"), Column("WHAT", free=True), Column("SIZE", right=True), Column("WHY", free=True)]


def _shown(capsys: pytest.CaptureFixture[str], *rows: tuple[str, ...]) -> list[str]:
    show(COLUMNS, rows, empty="nothing")
    return capsys.readouterr().out.splitlines()


def test_columns_are_as_wide_as_what_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures to the right, nothing behind the last cell."""
    assert _shown(capsys, ("a/1", "six", "1 B", ""), ("b/22", "idna", "10 kB", "old")) == [
        "ID    WHAT   SIZE  WHY",
        "─" * 22,
        "a/1   six     1 B",
        "b/22  idna  10 kB  old",
    ]
    assert _shown(capsys) == ["nothing"]


def test_on_a_narrow_terminal_the_widest_free_column_gives_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an ellipsis, also in scripts whose letters take two columns; ids and figures stay whole."""
    monkeypatch.setenv("COLUMNS", "60")
    row = ("python/0123456789ab", "何か" * 40, "12.3 MB", "not used for three days")
    lines = _shown(capsys, row)
    assert max(map(cell_len, lines)) <= 60
    assert lines[2].startswith("python/0123456789ab  何か")
    assert "…" in lines[2]
    assert "12.3 MB" in lines[2]


def test_what_controls_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A summary is made of what users wrote."""
    [line] = _shown(capsys, ("a", "\x1b[2Jsix\n\rx", "", "\u202e"))[2:]
    assert line.split() == ["a", "?[2Jsix??x", "?"]
