import os
from pathlib import Path

from ray_envd.agent.process import Completed
from ray_envd.agent.tool_logs import save_log
from ray_envd.cache.owner import Owner

_DONE = Completed(3, ("out", "err"))


def test_a_saved_log_holds_the_command_the_output_and_the_exit_code(tmp_path: Path) -> None:
    """Whoever reads it later knows what ran."""
    path = tmp_path / "logs" / "x.log"
    assert save_log(path, ["tool", "arg"], _DONE, Owner.current()) == str(path)
    assert path.read_text() == "$ tool arg\nout\nerr\nexit code 3\n"


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    """A failing env that is asked for day and night does not fill the disk."""
    for number in range(300):
        path = tmp_path / f"{number}.log"
        save_log(path, ["tool"], _DONE, Owner.current())
        os.utime(path, (number, number))
    assert {path.stem for path in tmp_path.iterdir()} == {str(number) for number in range(100, 300)}


def test_a_log_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    """The tool's failure is what is told, not that of its log."""
    (tmp_path / "logs").write_text("no folder")
    assert save_log(tmp_path / "logs" / "x.log", ["tool"], _DONE, Owner.current()) == ""
