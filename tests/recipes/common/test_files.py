"""Files and folders appear whole or not at all, also on a full disk."""

import errno
import stat
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.common.files import (
    atomic_directory,
    atomic_write,
    check_space,
    disk_full_as_user_error,
    write_text,
)


def test_a_file_is_written_with_its_folders_and_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "größer\n")
    write_text(path, "kürzer\n")
    assert path.read_text(encoding="utf-8") == "kürzer\n"
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual)


def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_on_success_only(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), atomic_directory(folder) as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []

    folder.mkdir()
    with atomic_directory(folder) as temporary:
        (temporary / "whole").touch()
        assert list(folder.iterdir()) == []
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_folder_with_content_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists already"), atomic_directory(path):
            pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(number: int) -> None:
    with (
        pytest.raises(UserError, match="out: no space left on the device, half is kept; free some"),
        disk_full_as_user_error(Path("out"), "half is kept"),
    ):
        raise OSError(number, "full")


def test_other_errors_of_the_disk_are_none_of_the_users() -> None:
    with pytest.raises(OSError, match="broken"), disk_full_as_user_error(Path("out")):
        raise OSError(errno.EIO, "broken")


def test_the_space_that_is_needed_is_compared_with_the_free(tmp_path: Path) -> None:
    check_space(tmp_path / "a" / "b", 1)
    with pytest.raises(UserError, match=f"{tmp_path}: needs 1000000000.00 GB but has"):
        check_space(tmp_path / "a" / "b", 10**18)
