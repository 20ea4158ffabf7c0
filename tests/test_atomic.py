"""Folders that are replaced as a whole, on every system."""

import os
from pathlib import Path

import pytest

from modeling_glccl import atomic


def refuse(*_arguments):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "\u732b" * 83 + ".mp4"])
def test_a_file_may_have_a_name_as_long_as_the_disk_allows(tmp_path, name):
    atomic.write_whole(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_name_has_half_a_character_which_macos_and_windows_refuse(tmp_path, monkeypatch):
    renamed, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: renamed.append(path.name) or replace(path, target))
    atomic.write_whole(tmp_path / ("\u732b" * 83), b"content")
    assert renamed[0].encode().startswith(b"." + ("\u732b" * 66).encode() + b".")  # of 3 bytes each


def test_a_folder_is_replaced_on_windows_which_opens_none(tmp_path, monkeypatch):
    for name in ("new", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    with monkeypatch.context() as windows:
        windows.setattr(atomic.sys, "platform", "win32")
        windows.setattr(os, "open", refuse)
        atomic.folder_to_disk(tmp_path / "new")
    atomic.replace_folder(tmp_path / "new", tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", [".", "link", "nowhere"])
def test_a_new_folder_may_be_the_one_that_one_is_in_or_what_a_link_leads_to(tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "nowhere").symlink_to("new")
    monkeypatch.chdir(tmp_path / "empty" if name == "." else tmp_path)
    with atomic.new_folder(Path(name)) as folder:
        (folder / "a.txt").touch()
    assert [path.name for path in tmp_path.glob("*/a.txt") if not path.parent.is_symlink()] == ["a.txt"]
    assert not list(tmp_path.glob("*partial*"))
