"""The verification of a download."""

import json
import os
import shutil

import miniatures
import pytest
from rich.console import Console

from modeling_glccl.data import check
from modeling_glccl.data.check import check_benchmark
from modeling_glccl.video_decoding_glccl import decode_video

pytestmark = pytest.mark.usefixtures("quiet")


def shown(report) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report.table())
    return console.export_text()


@pytest.mark.parametrize("name", miniatures.BENCHMARKS)
def test_a_whole_download_is_complete(tmp_path, capsys, name):
    miniatures.BENCHMARKS[name](tmp_path)
    report = check_benchmark(name, tmp_path)
    assert "decode" in capsys.readouterr().err  # the progress
    assert report.ok
    assert report.details() == []
    assert not any(split.is_canonical for split in report.splits if split.canonical.videos)


def test_missing_undecodable_and_damaged_videos_are_told_apart(tmp_path):
    videos = miniatures.msrvtt(tmp_path) / "videos"
    link, pipe = videos / "video7011.mp4", videos / "TestVideo" / "video7020.mp4"
    for path in (videos / "TestVideo" / "video9770.mp4", link, pipe):
        path.unlink()
    link.symlink_to("nowhere.mp4")
    os.mkfifo(pipe)
    (videos / "video0.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    whole = (videos / "more" / "video1.mkv").read_bytes()
    (videos / "more" / "video1.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    report = check_benchmark("msrvtt", tmp_path)
    train, test = report.splits
    assert not report.ok
    assert (train.videos, train.captions, list(train.missing)) == (3, 9, ["video7011"])
    assert list(train.undecodable) == ["video0"]
    assert "LFS" in train.undecodable["video0"]
    assert list(train.damaged) == ["video1"]
    assert list(test.missing) == ["video9770", "video7020"]
    assert any("test: video9770 is missing" in line for line in report.details())
    assert "3 of 9,000" in shown(report)
    assert "NOT complete" in shown(report)


def test_no_whole_frames_are_kept(tmp_path, monkeypatch):
    miniatures.msvd(tmp_path)
    sizes = []
    monkeypatch.setattr(
        check, "decode_video", lambda *given, **more: sizes.append(decode_video(*given, **more).frames)
    )
    check_benchmark("msvd", tmp_path, ["test"])
    assert sizes
    assert all(frames[0].size <= 3 for frames in sizes)


def test_a_split_without_annotations_is_a_problem_of_that_split(tmp_path):
    folder = miniatures.didemo(tmp_path)
    (folder / "train_data.json").unlink()
    report = check_benchmark("didemo", tmp_path)
    assert [split.ok for split in report.splits] == [False, True, True]
    assert "train_data.json" in report.splits[0].problem
    assert check_benchmark("didemo", tmp_path, splits=["val", "test"]).ok


def test_a_second_check_decodes_only_what_changed(tmp_path, monkeypatch):
    folder = miniatures.msvd(tmp_path)
    decoded, decode = [], check._decode

    def noting(path, *rest):
        decoded.append(os.path.basename(path))
        return decode(path, *rest)

    monkeypatch.setattr(check, "_decode", noting)

    def run():
        decoded.clear()
        report = check_benchmark("msvd", tmp_path)
        return report.ok, sorted(decoded)

    videos = ["-abc_1_5.avi", "-cde_0_10.avi", "bcd_2_9.avi", "def_3_4.avi"]
    assert run() == (True, videos)
    assert run() == (True, [])
    (results,) = (tmp_path / "cache" / "checks").iterdir()
    lines = results.read_text().splitlines()
    results.write_text("\n".join([*lines[:3], lines[3][:20]]))  # stopped in the middle of the third
    assert run() == (True, sorted(os.path.basename(json.loads(json.loads(line)[0])[0]) for line in lines[3:]))
    (folder / "videos" / "YouTubeClips" / "def_3_4.avi").write_bytes(b"")
    assert run() == (False, ["def_3_4.avi"])
    assert run() == (False, []), "what was found stays found"


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path):
    folder = miniatures.lsmdc(tmp_path)
    (folder / "videos" / "1012_Movie" / f"{miniatures.LSMDC_CLIPS[1]}.avi").write_bytes(b"")
    one = check_benchmark("lsmdc", tmp_path)
    shutil.rmtree(tmp_path / "cache" / "checks")
    two = check_benchmark("lsmdc", tmp_path, num_proc=2)
    assert [split.undecodable for split in one.splits] == [split.undecodable for split in two.splits]
    assert list(two.splits[2].undecodable) == [miniatures.LSMDC_CLIPS[1]]


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="'shapes' is no benchmark that is downloaded"):
        check_benchmark("shapes", tmp_path)
    with pytest.raises(ValueError, match="split='dev' of msvd"):
        check_benchmark("msvd", tmp_path, splits=["dev"])
