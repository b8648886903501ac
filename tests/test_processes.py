"""Command lines side by side."""

import pytest

from mmseol.utils.processes import run_side_by_side


def test_output_goes_to_the_logs(tmp_path, capsys):
    logs = {name: tmp_path / name / "run.log" for name in "ab"}
    run_side_by_side({log: ("-c", f"print('{name} done')") for name, log in logs.items()})
    assert [log.read_text() for log in logs.values()] == ["a done\n", "b done\n"]
    assert "$ python -c" in capsys.readouterr().out


def test_a_failure_ends_all_and_shows_its_log(tmp_path):
    slow = ("-c", "import time; time.sleep(60)")
    with pytest.raises(SystemExit, match=r"no such thing[\s\S]*failed; see .*bad\.log"):
        run_side_by_side(
            {tmp_path / "bad.log": ("-c", "raise OSError('no such thing')"), tmp_path / "b.log": slow}
        )
