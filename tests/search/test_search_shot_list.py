"""Moments as CSV, EDL and OpenTimelineIO."""

import csv
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from videos import write_video

from modeling_glccl.cli import main
from modeling_glccl.packaged import install_line
from modeling_glccl.search.shot_list import Shot, write_shot_list
from modeling_glccl.video_streams_glccl import VideoDecodeError


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> list[Shot]:
    folder = tmp_path_factory.mktemp("shots")
    first = write_video(folder / "first, one.mp4", 100)
    ntsc = write_video(folder / "ntsc.mkv", 100, fps=Fraction(30_000, 1001))
    return [Shot(str(first), 1.0, 2.48, 9.5), Shot(str(ntsc), 1.001, 3.003, 8.25), Shot(str(first), 3.0, 3.001, -1)]


def test_a_csv_is_read_back(tmp_path, shots):
    write_shot_list(tmp_path / "list.csv", 'a "dog"', shots)
    with (tmp_path / "list.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Shot(r["path"], float(r["start"]), float(r["end"]), float(r["score"])) for r in rows] == shots
    assert {row["query"] for row in rows} == {'a "dog"'}


@pytest.mark.parametrize("suffix", ["csv", "edl"])
def test_a_query_that_a_terminal_gave_in_another_encoding_is_kept(tmp_path, shots, suffix):
    write_shot_list(tmp_path / f"list.{suffix}", "caf\udce9", shots)
    assert r"caf\udce9" in (tmp_path / f"list.{suffix}").read_text(encoding="utf-8")


def test_an_edl_has_timecodes_at_the_rate_of_each_video(tmp_path, shots):
    write_shot_list(tmp_path / "list.EDL", "a dog\nruns", shots)
    lines = (tmp_path / "list.EDL").read_text().splitlines()
    assert lines[:2] == ["TITLE: a dog runs", "FCM: NON-DROP FRAME"]
    # Frames 25 to 62 at 25 a second; 30 to 90 at 29.97, which last 2.002 s, 50 frames of the timeline; one frame.
    assert [line for line in lines if "  AX " in line] == [
        "001  AX       V     C        00:00:01:00 00:00:02:12 00:00:00:00 00:00:01:12",
        "002  AX       V     C        00:00:01:00 00:00:03:00 00:00:01:12 00:00:03:12",
        "003  AX       V     C        00:00:03:00 00:00:03:01 00:00:03:12 00:00:03:13",
    ]
    assert lines[4:7] == ["* FROM CLIP NAME: first, one.mp4", f"* SOURCE FILE: {shots[0].path}", "* FRAME RATE: 25"]
    assert "* FRAME RATE: 29.97" in lines
    with pytest.raises(ValueError, match="999 shots, not 1000"):
        write_shot_list(tmp_path / "list.edl", "a dog", 1000 * shots[:1])
    with pytest.raises(VideoDecodeError, match="gone"):
        write_shot_list(tmp_path / "gone.edl", "a dog", [Shot("gone.mp4", 0, 1, 0)])
    assert not (tmp_path / "gone.edl").exists()


def test_a_timeline_is_read_back(tmp_path, shots):
    otio = pytest.importorskip("opentimelineio")
    write_shot_list(tmp_path / "list.otio", "a dog", shots)
    timeline = otio.adapters.read_from_file(str(tmp_path / "list.otio"))
    clips = list(timeline.find_clips())
    spans = [(clip.source_range.start_time.to_frames(), clip.source_range.duration.to_frames()) for clip in clips]
    assert spans == [(25, 37), (30, 60), (75, 1)]
    assert [clip.source_range.start_time.rate for clip in clips] == pytest.approx([25, 30_000 / 1001, 25])
    assert clips[0].media_reference.target_url == Path(shots[0].path).as_uri()
    assert clips[1].metadata["glccl"] == {"query": "a dog", "score": 8.25}


def test_what_a_list_needs_is_said_before_the_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    for command in (["search"], ["cut", "--output", str(tmp_path / "out")]):
        assert main([*command, "a dog", "--index=none", "--shot-list=list.txt"]) == 1
        assert "a shot list is a file called .csv, .edl, .otio" in capsys.readouterr().err
        assert main([*command, "a dog", "--index=none", "--shot-list=list.otio"]) == 1
        assert install_line("edit") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_commands_write_lists(tmp_path, videos, index, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    index.update(videos, progress=False)
    monkeypatch.setattr("modeling_glccl.search.commands.VideoIndex.open", lambda path, **place: index)
    assert main(["search", "a dog", "--index=my.index", "--shot-list=found.csv", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    with open("found.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["path"] for row in found] == [result["path"] for result in results]
    assert [float(row["start"]) for row in found] == pytest.approx([r["moment"]["start"] for r in results], abs=1e-3)
    (videos / "v1.mp4").unlink()
    assert main(["cut", "a dog", "--index=my.index", "--output=out", "--padding=0.1", "--shot-list=cut.csv"]) == 1
    with open("cut.csv", newline="") as file:
        cut = list(csv.DictReader(file))
    assert [row["path"] for row in cut] == [row["path"] for row in found if not row["path"].endswith("v1.mp4")]
    moments = {result["path"]: result["moment"] for result in results}
    for row in cut:
        assert float(row["start"]) == pytest.approx(max(0, moments[row["path"]]["start"] - 0.1), abs=1e-3)
