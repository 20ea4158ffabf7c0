"""`glccl index` and `glccl search`."""

import json
import os
import re
import shutil
import webbrowser
from pathlib import Path

import pytest
from search_data import contents
from videos import write_video

from modeling_glccl.cli import main
from modeling_glccl.search import VideoIndex
from modeling_glccl.search.rendering import clock
from modeling_glccl.video_decoding_glccl import decode_video


@pytest.fixture
def indexed(run, videos, checkpoint) -> str:
    """What the command printed that indexed the videos."""
    code, printed = run("index", videos, "--index", "my.index", "--model", checkpoint)
    assert code == 0
    return printed


def test_from_a_folder_to_a_moment_in_two_commands(run, videos, indexed):
    assert "my.index: 5 videos (5 added)" in indexed
    assert "other files ignored: 1 (suffixes .txt)" in indexed
    code, printed = run("search", "a dog in the snow", "--index", "my.index")
    assert code == 0
    for text in ("a dog in the snow", "rank", "score", "best moment", "v1.mp4", "more/v4.mp4", "0:0", f"in {videos}"):
        assert text in printed
    _, printed = run("search", "a dog", "--index", "my.index", "--json", "-k", 2)
    results = json.loads(printed)
    assert [result["rank"] for result in results] == [1, 2]
    assert results[0]["score"] >= results[1]["score"]
    assert 0 <= results[0]["moment"]["start"] < results[0]["moment"]["end"] <= results[0]["duration"]
    for path, unchanged in ((videos, 5), (videos / "v0.mp4", 1)):
        code, printed = run("index", path, "--index", "my.index")
        assert (code, f"5 videos ({unchanged} unchanged)" in printed) == (0, True)


def test_filters_and_order(run, videos, indexed):
    def found(*options):
        code, printed = run("search", "a dog", "--index", "my.index", "--json", *options)
        return [Path(result["path"]).name for result in json.loads(printed)] if code == 0 else printed

    assert sorted(found("--folder", videos / "more")) == ["v3.mp4", "v4.mp4"]
    assert sorted(found("--folder", "videos/v?.mp4", "--max-duration", 3)) == ["v0.mp4", "v1.mp4"]
    assert sorted(found("--ids", videos / "v1.mp4", "--ids", videos / "v0.mp4")) == ["v0.mp4", "v1.mp4"]
    os.utime(videos / "v1.mp4", (1, 1))
    os.utime(videos / "v2.mp4", (86400, 86400))
    run("index", videos, "--index", "my.index")
    assert found("--until", "2000-01-01", "--sort", "date") == ["v2.mp4", "v1.mp4"]
    assert "since='soon': no date such as" in found("--since", "soon")
    assert "no video passes the filter: where='size < 0'" in found("--where", "size < 0")
    code, printed = run("search", "a dog", "--index", "my.index", "--min-score", 1e6)
    assert (code, printed) == (0, "nothing fits: no video has a score of 1e+06\n")


def test_a_query_in_another_encoding_is_searched(run, shared, tmp_path):
    code, printed = run("search", "a caf\udce9", "--index", shared.path, "--html", tmp_path / "page.html")
    assert (code, "a caf?" in printed) == (0, True)
    assert "a caf?" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert run("cut", "a caf\udce9", "--index", shared.path, "--output", "cut", "-k", 1)[0] == 0


def test_a_language_that_the_model_does_not_know_is_told_of(run, shared):
    queries = {"一只狗在雪里跑": True, "pes běží sněhem": True, "красный квадрат": True}
    queries |= {"a dog": False, "two dogs, and a man!": False, "2026 03 04": False, "a b c": False}
    for query, told in queries.items():
        code, printed = run("search", query, "--index", shared.path)
        assert (code, "the model hardly knows this language" in printed) == (0, told), query


@pytest.mark.parametrize("options", [("--device", "nonsense"), ("--speech", "nowhere")])
def test_what_cannot_be_done_leaves_no_index_behind(run, videos, checkpoint, tmp_path, options):
    code, printed = run("index", videos, "--index", "new.index", "--model", checkpoint, *options)
    assert code == 1
    assert f"{options[0][2:]}={options[1]!r}" in printed
    assert not (tmp_path / "new.index").exists()


def test_brackets_are_printed_as_they_are_and_control_characters_are_not(run, videos, checkpoint):
    folder = videos / "["
    folder.mkdir()
    (videos / "v1.mp4").rename(folder / "x].mp4")
    (videos / "v2.mp4").rename(videos / ":smile:.mp4")
    (videos / "v0.mp4").rename(videos / "red\x1b[31m.mp4")  # a terminal would obey
    run("index", videos, "--index", "my.index", "--model", checkpoint)
    code, printed = run("search", "close tag [/b]", "--index", "my.index")
    assert code == 0
    for text in ("close tag [/b]", "[/x].mp4", ":smile:.mp4", "red [31m.mp4"):
        assert text in printed


def test_several_folders(run, videos, indexed, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "empty").mkdir()
    write_video(tmp_path / "other" / "v0.mp4", 50, fps=5)
    shutil.copyfile(tmp_path / "other" / "v0.mp4", tmp_path / "other" / "copy.mp4")
    index = ("--index", "my.index")
    opened = VideoIndex.open("my.index")
    ids = set(contents(opened))
    code, printed = run("index", videos / "more", "other", videos, *index)
    assert (code, "7 videos (2 added, 5 unchanged)" in printed) == (0, True)
    assert set(contents(opened)) == ids | {str(tmp_path / "other" / name) for name in ("v0.mp4", "copy.mp4")}
    for path in (videos / "v0.mp4", videos / "more" / "v3.mp4", tmp_path / "other" / "copy.mp4"):
        path.unlink()
    code, message = run("index", "other", "empty", *index, "--remove-missing")
    assert (code, "empty: no videos there" in message, len(opened)) == (1, True, 7)
    _, printed = run("index", "other", videos / "more", *index, "--remove-missing")
    assert "5 videos (2 unchanged, 2 removed)" in printed
    assert str(videos / "v0.mp4") in contents(opened)  # of neither folder
    assert "no such folder of videos" in run("index", "other", "none", *index)[1]


def test_the_page_needs_no_other_file(run, videos, indexed, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    (videos / "v1.mp4").unlink()
    code, _ = run("search", "<b>dogs</b> & snow", "--index", "my.index", "--html", "report.html", "--open")
    assert code == 0
    page = (tmp_path / "report.html").read_text()
    assert opened == [(tmp_path / "report.html").as_uri()]
    for text in ("&lt;b&gt;dogs&lt;/b&gt; &amp; snow", "no such file", '<td class="moment"><img', '<th title="snow">'):
        assert text in page
    assert "<b>" not in page
    assert page.count("<article>") == 5
    assert page.count('src="data:image/jpeg;base64,') == 4 + 4 + 4 + 2  # v0 has two frames, v1 is gone
    assert 'src="http' not in page


def test_errors_are_listed_and_retried(run, videos, checkpoint):
    (videos / "empty.mp4").write_bytes(b"")
    code, printed = run("index", videos, "--index", "my.index", "--model", checkpoint)
    assert (code, "1 failed" in printed, "--errors" in printed) == (0, True, True)
    _, printed = run("index", "--index", "my.index", "--errors")
    assert "empty.mp4: is empty (0 bytes)" in printed
    assert "videos with errors: 1" in printed
    _, printed = run("index", videos, "--index", "my.index", "--retry-failed")
    assert "1 failed" in printed
    (videos / "empty.mp4").unlink()
    _, printed = run("index", videos, "--index", "my.index", "--remove-missing")
    assert "1 removed" in printed
    assert "videos with errors: 0" in run("index", "--index", "my.index", "--errors")[1]


def test_wrong_use_is_explained(run, videos, checkpoint, shared):
    assert "say with which model, --model CHECKPOINT" in run("index", videos, "--index", "my.index")[1]
    assert "which folder of videos?" in run("index", "--index", "my.index")[1]
    for command in (("search", "a dog"), ("cut", "a dog", "--output", "cut")):
        assert "no such index" in run(*command, "--index", "none.index")[1]
    assert not Path("cut").exists()
    Path("file.txt").write_text("no index")
    for command in (("index", videos, "--model", checkpoint), ("search", "a dog")):
        assert "file.txt: is a file; an index is a folder" in run(*command, "--index", "file.txt")[1]
    assert "no such folder" in run("index", videos / "none", "--index", "i", "--model", checkpoint)[1]
    for path, problem in ((videos / "v1.mp4", "--watch is for folders"), (videos / "none", "no such folder")):
        assert problem in run("index", path, "--index", "i", "--model", checkpoint, "--watch")[1]
    code, message = run("index", videos, "--index", shared.path, "--clip-length", 5)
    assert code == 1
    assert f"--clip-length 5.0: {shared.path} was made with 30.0" in message


def test_watching_waits_for_files_that_grow(videos, checkpoint, tmp_path, monkeypatch, capsys):
    """Every pause is one step of somebody who works in the folder; Ctrl-C ends it."""
    monkeypatch.chdir(tmp_path)
    new, away = videos / "new.mp4", tmp_path / "away"
    whole, rounds = (videos / "v1.mp4").read_bytes(), []

    def step(seconds):
        assert seconds == 0.5
        rows = VideoIndex.open("my.index")._store.videos(["path"])
        rounds.append(sorted(Path(row["path"]).name for row in rows))
        match len(rounds):
            case 2:
                new.write_bytes(whole[:100])
            case 3:
                new.write_bytes(whole)
            case 5:
                new.unlink()
            case 6:
                videos.rename(away)
            case 8:
                away.rename(videos)
            case 9:
                (videos / "v1.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\na dog\n")
            case 12:
                raise KeyboardInterrupt

    monkeypatch.setattr("modeling_glccl.search.commands.time.sleep", step)
    command = ("index", videos, "--index", "my.index", "--model", checkpoint, "--remove-missing", "--watch", 0.5)
    assert main(list(map(str, command))) == 130
    printed, errors = capsys.readouterr()
    library = [f"v{number}.mp4" for number in range(5)]
    # Seen once; indexed; a file grows; is whole, and seen once; indexed; gone; the drive is away, twice; it is back;
    # subtitles come, are seen once, and read.
    assert rounds == [[], library, library, library, ["new.mp4", *library], *[library] * 7]
    lines = [line for line in printed.splitlines() if line.startswith("my.index")]
    done = ("5 videos (5 added)", "6 videos (1 copied, ", "5 videos (", "5 videos (5 unchanged, 1 subtitled)")
    assert all(part in line for line, part in zip(lines, done, strict=True))
    assert "1 removed" in lines[2]
    assert errors.count("no such folder of videos") == 1
    assert errors.endswith("glccl index: interrupted; the same command goes on where it stopped\n")


def test_moments_are_cut(run, videos, indexed, tmp_path):
    (videos / "v1.mp4").unlink()
    command = ("cut", "a dog in the snow", "--index", "my.index", "--output", "cut/here", "--padding", 0.5)
    code, message = run(*command)
    assert code == 1
    assert message.count("\n") == 3  # what it computes on, first
    assert "v1.mp4: no such file" in message
    assert "glccl cut: error: 1 of 5 moments could not be cut" in message
    names = [path.name for path in sorted((tmp_path / "cut" / "here").iterdir())]
    assert len(names) == 4
    assert all(re.fullmatch(r"0[1-5]_v\d_\d+\.\d-\d+\.\d\.mp4", name) for name in names)
    _, message = run(*command)
    assert "exists; nothing is overwritten" in message
    assert "5 of 5 moments could not be cut" in message
    _, printed = run(*command[:5], "exact", "-k", 1, "--exact")
    line = re.fullmatch(r"(exact/01_.*): (0:\S+ - 0:\S+) of .*\.mp4\n", printed)
    assert line is not None
    cut, moment = line.groups()
    assert decode_video(cut).duration > 0
    _, printed = run("search", *command[1:4], "--json", "-k", 1)
    found = json.loads(printed)[0]["moment"]
    assert moment == f"{clock(found['start'])} - {clock(found['end'])}"


def test_times_are_readable():
    assert [clock(seconds) for seconds in (0, 59.96, 63.42, 3723.4)] == ["0:00.0", "1:00.0", "1:03.4", "1:02:03.4"]
