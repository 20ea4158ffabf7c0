"""What comes from strangers: archives, pickles, folders of videos."""

import gzip
import io
import os
import pickle
import stat
import tarfile
import tracemalloc
import zipfile
from functools import reduce
from pathlib import Path

import pytest
from miniatures import write_text

from modeling_glccl.data import archives
from modeling_glccl.data.archives import extract, find_archives
from modeling_glccl.data.files import VideoFiles, find_annotation, read_plain_pickle, read_text


def archive_of(path: Path, **members: bytes) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


both = pytest.mark.parametrize("archive_name", ["x.zip", "x.tar"])


@both
@pytest.mark.parametrize("name", ["../evil.mp4", "a/../../evil.mp4", "/tmp/evil.mp4", "C:\\evil.mp4", "..\\evil.mp4"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, archive_name, name):
    archive = archive_of(tmp_path / archive_name, **{name: b"video"})
    with pytest.raises(ValueError, match=r"x\.(zip|tar).*leads out"):
        extract([archive], tmp_path / "below" / "videos")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, "zip"])
def test_links_and_devices_are_refused(tmp_path, kind):
    if kind == "zip":
        member = zipfile.ZipInfo("a.mp4")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(member, "/etc/passwd")
    else:
        member = tarfile.TarInfo("a.mp4")
        member.type, member.linkname = kind, "/etc/passwd"
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            archive.addfile(member)
    with pytest.raises(ValueError, match=r"a\.mp4.*is a link or device"):
        extract([next(tmp_path.glob("x.*"))], tmp_path / "videos")
    assert not (tmp_path / "videos").exists()


def bomb(path: Path) -> Path:
    """An archive of a few hundred bytes, whose only member would take gigabytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.mp4", bytes(10 << 20))
        return path
    member = tarfile.TarInfo("b.mp4")
    member.pax_headers = {f"GNU.sparse.{key}": value for key, value in (("major", "1"), ("minor", "0"))}
    member.pax_headers |= {"GNU.sparse.name": "a.mp4", "GNU.sparse.realsize": str(3 << 30)}
    member.size = 512
    with tarfile.open(path, f"w:{path.suffix[1:]}", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_a_bomb_is_refused_before_it_is_written(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archives, "write_whole", lambda path, source: pytest.fail("written"))
    with pytest.raises(
        ValueError, match=rf"{name}: with 'a\.mp4' its files take [\d,]+ bytes, above the limit of 1,048"
    ):
        extract([bomb(tmp_path / name)], tmp_path / "videos")


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_a_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path, kind):
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 3 << 30
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(content))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.tar\.gz: .*a header claims 3,221,225,472 bytes, above the limit"):
        extract([tmp_path / "x.tar.gz"], tmp_path / "videos")
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


@both
def test_all_members_together_are_limited(tmp_path, archive_name, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 3000)
    archive = archive_of(tmp_path / archive_name, **{"a.mp4": b"a" * 2000, "b.mp4": b"b" * 2000})
    with pytest.raises(ValueError, match=r"with 'b\.mp4' its files take 5,024 bytes, above the limit of 3,000"):
        extract([archive], tmp_path / "videos")
    assert not (tmp_path / "videos" / "b.mp4").exists()


@both
def test_extraction_goes_on_where_it_stopped_and_is_done_once(tmp_path, archive_name):
    archive = archive_of(tmp_path / archive_name, **{"v/a.mp4": b"aaaa", "v/b.mp4": b"bb", "notes.txt": b"-"})
    videos = tmp_path / "videos"
    write_text(videos / "v" / "a.mp4", "aaaa")
    written = os.stat(videos / "v" / "a.mp4").st_mtime_ns
    write_text(videos / "v" / "b.mp4", "b")  # cut short
    assert extract([archive], videos) == 1
    assert os.stat(videos / "v" / "a.mp4").st_mtime_ns == written
    assert (videos / "v" / "b.mp4").read_bytes() == b"bb"
    assert not (videos / "notes.txt").exists()
    (videos / "v" / "b.mp4").unlink()
    assert extract([archive], videos) == 0, "an archive that is done is not opened again"


def test_a_tar_in_parts_is_one_archive(tmp_path):
    content = archive_of(tmp_path / "whole.tar", **{"a.mp4": os.urandom(70_000), "b.mp4": b"bb"}).read_bytes()
    (tmp_path / "parts").mkdir()
    for i, part in enumerate((content[:30_000], content[30_000:60_000], content[60_000:])):
        (tmp_path / "parts" / f"V.tar.part-00{i}").write_bytes(part)
    (archive,) = find_archives(tmp_path / "parts")
    assert [part.name for part in archive] == ["V.tar.part-000", "V.tar.part-001", "V.tar.part-002"]
    assert extract(archive, tmp_path / "videos") == 2
    assert (tmp_path / "videos" / "b.mp4").read_bytes() == b"bb"


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_a_damaged_archive_is_named(tmp_path, name):
    head = {".gz": b"\x1f\x8b", ".bz2": b"BZh9", ".xz": b"\xfd7zXZ\0"}.get(Path(name).suffix, b"PK")
    (tmp_path / name).write_bytes(head + b" not really" * 99)
    with pytest.raises(ValueError, match=rf"{name}.*download it again"):
        extract([tmp_path / name], tmp_path / "videos")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(tmp_path, protocol):
    captions = {"-abc_1_5": [["a", "café"], ("b",)], "n": [1, 2.5, None, True]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(captions, protocol))
    assert read_plain_pickle(tmp_path / "x.pkl") == captions


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"cposix\nmkdir\n(S'owned'\ntR.", "it refers to posix.mkdir"),
        *((pickle.dumps(value, protocol=0), "it refers to") for value in (set(), bytearray(b"x"), Path("x"), 1j)),
        (pickle.dumps({"a": [["b"]]})[:-5], ""),
        (b"K\x00r\xff\xff\xff\x1f.", "it asks for a table of 536,870,911 places, and has 8 bytes"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", ""),
        (b"K\x00)R.", "'int' object is not callable"),
        (b"}]K\x01s.", "unhashable"),
        (pickle.dumps(reduce(lambda inner, _: [inner, inner], range(40), "a")), "unfold to more than 10,.* values"),
        (pickle.dumps([["a" * 30_000] * 3] * 60_000), "unfold to more than"),
    ],
)
def test_a_pickle_that_runs_code_is_cut_or_asks_for_memory_is_named(tmp_path, monkeypatch, content, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.pkl: cannot be read as captions: .*{problem}"):
        read_plain_pickle(tmp_path / "x.pkl")
    assert os.listdir() == ["x.pkl"]


def test_videos_are_found_in_sub_folders_by_exact_name_then_without_suffix(tmp_path):
    """A stem counts only where it is unique; letters and accents may be apart, as macOS has them."""
    clip, cafe, ete = "1012_M_00.05-00.06.941", "cafe\u0301.mp4", "\xe9t\xe9.mp4"
    names = ["a/x.mov", "b/x.mov.mp4", "y.avi", "c/y.mp4", "-z.webm", f"{clip}.avi", "._q.mp4", "t/w.mp4", "u/w.mp4"]
    for name in (*names, cafe, ete, "1@N_a.mov.mp4", "2@N_b.mov", "2@N_b.avi"):
        write_text(tmp_path / name, "")
    expected = {"x.mov": "a/x.mov", "x": "a/x.mov", "y": "c/y.mp4", "-z": "-z.webm", clip: f"{clip}.avi"}
    expected |= {"w": "t/w.mp4", "e\u0301te\u0301": ete} | dict.fromkeys(
        ("caf\xe9", "cafe\u0301", "caf\xe9.mp4"), cafe
    )
    with pytest.warns(UserWarning, match=r"1 file names stand twice.*u/w\.mp4.*t/w\.mp4 is used"):
        files = VideoFiles(tmp_path)
    assert {name: files.find(name) for name in expected} == {
        name: str(tmp_path / path) for name, path in expected.items()
    }
    assert files.find("1012_M_00") is files.find("q") is None
    assert files.find_stem("1@N_a") == str(tmp_path / "1@N_a.mov.mp4")
    assert files.find_stem("2@N_b") is None


def test_a_text_that_would_fill_the_memory_is_not_read(tmp_path):
    with (tmp_path / "metadata.csv").open("wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(ValueError, match=r"metadata\.csv: has 2,147,483,648 bytes; a text of at most"):
        read_text(tmp_path / "metadata.csv")


@pytest.mark.parametrize("folder", ["", "anns", "data", "msrvtt_data"])
def test_annotations_are_found_one_level_down_or_named(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no a\.json or b\.json there"):
        find_annotation(tmp_path, "a.json", "b.json")
    path = write_text(tmp_path / folder / "b.json", "")
    assert find_annotation(tmp_path, "a.json", "b.json") == path
