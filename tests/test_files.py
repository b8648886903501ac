"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmseol.utils.files import replacing


def test_a_written_file_has_the_mode_of_others(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with replacing(tmp_path / "made" / "mine", "w") as file:
        file.write("whole")
    assert (tmp_path / "made" / "mine").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)

    def fail() -> None:
        with replacing(path, "w") as file:
            file.write("new")
            file.flush()
            assert (path.read_text() if path.exists() else None) == before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert {part.name: part.read_text() for part in tmp_path.iterdir()} == (
        {"file": before} if before else {}
    )
