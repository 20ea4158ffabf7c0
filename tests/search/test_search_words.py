"""What is said: subtitle files, tracks and transcripts, searched by themselves and fused with the frames."""

import io
import json
import os
import shutil
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from search_data import CAPTIONS, synthetic_records, update, write_cues
from videos import write_video, write_with_sound

from modeling_glccl.search import VideoIndex, ingest, searcher, words
from modeling_glccl.search.words import Cue, find_sidecars, load_speech, read_sidecar, read_tracks

TEXTS = ["Fold the dough twice.", "And then?"]
CUES = [Cue(1.0, 2.5, TEXTS[0]), Cue(3.0, 3.5, TEXTS[1])]
SRT = f"1\n00:00:01,000 --> 00:00:02,500\n{TEXTS[0]}\n\n2\n00:00:03,000 --> 00:00:03,500\n{TEXTS[1]}\n"
VTT = (
    "WEBVTT\n\nNOTE nobody says this\n\nSTYLE\n::cue {}\n\nfirst\n00:01.000 --> 00:02.500 line:0\n"
    f"<v Ann>Fold <b>the</b>\ndough twice.\n\n00:00:03.000 --> 00:00:03.500\n{TEXTS[1]}\n"
)


def said(text: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:02,500\n{text}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.srt", SRT.encode()),
        ("a.srt", b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode()),
        ("a.srt", SRT.replace("dough", "<i>dough</i>{\\an8}").encode("utf-16")),
        ("a.srt", b"\xfe\xff" + SRT.encode("utf-16-be")),
        ("a.vtt", VTT.encode()),
        ("a.vtt", SRT.encode()),
        ("a.srt", VTT.encode()),
        ("a.srt", SRT.replace("dough", "\x1b\u202e dough\x07").encode()),  # what a terminal would obey
    ],
)
def test_subtitle_files_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    errors = []
    assert read_sidecar(str(tmp_path / name), errors) == CUES
    assert errors == []


def test_letters_beyond_ascii(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "a.srt").write_bytes(said("Grüße, café, naïve").encode(encoding))
        assert read_sidecar(str(tmp_path / "a.srt"), []) == [Cue(1.0, 2.5, "Grüße, café, naïve")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no subtitles"),
        (b"nothing but text", "holds no subtitles"),
        (b"WEBVTT\n\n00:01.000 -->", "holds no subtitles"),
        (SRT.encode("utf-16-le"), "is no text in UTF-8"),
        (bytes(range(256)), "is no text in UTF-8"),
        (SRT.encode() + b"x" * 1000, "has more than 1,000 bytes"),
        (said("x\n\n2\n00:00:03,000 --> 00:00:03,500\ny\n\n3\n00:00:04,000 --> 00:00:05,000\nz").encode(), "first 2"),
    ],
)
def test_what_is_no_subtitle_file_is_one_error(tmp_path, monkeypatch, content, problem):
    monkeypatch.setattr(words, "MAX_BYTES", 1000)
    monkeypatch.setattr(words, "MAX_CUES", 2)
    (tmp_path / "a.srt").write_bytes(content)
    errors = []
    cues = read_sidecar(str(tmp_path / "a.srt"), errors)
    assert [cue.text for cue in cues] == (["x", "y"] if problem == "first 2" else [])
    (error,) = errors
    assert error.startswith(str(tmp_path / "a.srt"))
    assert problem in error


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.srt")
    (tmp_path / "b.srt").symlink_to("nowhere")
    for name in ("a.srt", "b.srt"):
        errors = []
        assert read_sidecar(str(tmp_path / name), errors) == []
        assert "is not a regular file" in errors[0]


def test_which_files_belong_to_a_video(tmp_path):
    for name in ("a.srt", "a.en.srt", "a.pt-BR.VTT", "a.en.forced.srt", "a.part.srt", "ab.srt", "a.txt", "a.mp4"):
        (tmp_path / name).touch()
    found = {stem: [os.path.basename(file) for file in files] for stem, files in find_sidecars(str(tmp_path)).items()}
    assert found["a"] == ["a.en.forced.srt", "a.en.srt", "a.pt-BR.VTT", "a.srt"]
    assert found["a.en"] == ["a.en.srt"]  # should there be an a.en.mp4
    assert (found["ab"], found["a.part"]) == (["ab.srt"], ["a.part.srt"])
    assert find_sidecars(str(tmp_path / "none")) == {}


def write_with_track(path: Path, codec: str) -> Path:
    """A video of 10 seconds with `CUES` as a subtitle track."""
    video = write_video(path.with_name("plain.mp4"), 50, fps=5)
    with (
        av.open(str(video)) as pictures,
        av.open(io.BytesIO(SRT.encode()), "r", format="srt") as subtitles,
        av.open(str(path), "w") as target,
    ):
        picture = target.add_stream_from_template(pictures.streams.video[0])
        (source,) = subtitles.streams.subtitles
        track: Any = target.add_stream_from_template(source) if codec == "subrip" else target.add_stream(codec)
        if codec != "subrip":
            track.codec_context.subtitle_header = b"[Script Info]\n\n[V4+ Styles]\n\n[Events]\n"
            track.time_base = Fraction(1, 1000)
        for packet in pictures.demux(pictures.streams.video[0]):
            if packet.dts is not None:
                packet.stream = picture
                target.mux(packet)
        for packet in subtitles.demux(source):
            if packet.dts is not None:
                text = bytes(packet)
                length = len(text).to_bytes(2, "big")
                styled = b"0,0,Default,,0,0,0,,{\\b1}" + text.replace(b" the ", b"\\Nthe\\h")
                copy = av.Packet({"mov_text": length + text, "ass": styled}.get(codec, text))
                copy.pts = copy.dts = packet.pts
                copy.duration, copy.time_base, copy.stream = packet.duration, packet.time_base, track
                target.mux(copy)
    video.unlink()
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "subrip"), ("a.mp4", "mov_text"), ("b.mkv", "ass")])
def test_tracks_are_read(tmp_path, name, codec):
    errors = []
    assert read_tracks(str(write_with_track(tmp_path / name, codec)), errors) == CUES
    assert errors == []


def texts(index: VideoIndex) -> dict[str, list[str]]:
    """Path -> what is said; raises where a cue is there twice."""
    paths = {row["video_key"]: row["path"] for row in index._store.videos(["video_key", "path"])}
    found = defaultdict(list)
    rows = index._store.word_rows(["video_key", "cue", "text"], "true")
    assert len({(row["video_key"], row["cue"]) for row in rows}) == len(rows)
    for row in sorted(rows, key=lambda row: row["cue"]):
        if row["cue"]:
            found[paths[row["video_key"]]].append(row["text"])
    return dict(found)


def test_words_follow_their_files_and_no_video_is_encoded_again(index, videos, monkeypatch):
    track = write_with_track(videos / "track.mkv", "subrip")
    assert update(index, videos) == {"added": 6, "subtitled": 1}
    monkeypatch.setattr(ingest, "read_clips", None)
    sidecar = videos / "v1.en.srt"
    sidecar.write_text(said("a dog barks"))
    (videos / "v2.srt").write_text("broken")
    assert update(index, videos) == {"unchanged": 6, "subtitled": 1}
    v1, v2 = str(videos / "v1.mp4"), str(videos / "v2.mp4")
    assert texts(index) == {str(track): TEXTS, v1: ["a dog barks"]}
    assert list(index.errors()) == [v2]
    assert "v2.srt: holds no subtitles" in index.errors()[v2]
    assert (len(index), update(index, videos)) == (6, {"unchanged": 6})
    sidecar.write_text(said("a cat meows"))
    (videos / "v2.srt").write_text(said("repaired"))
    assert update(index, videos) == {"unchanged": 6, "subtitled": 2}
    assert texts(index) == {str(track): TEXTS, v1: ["a cat meows"], v2: ["repaired"]}
    assert index.errors() == {}
    assert [result.path for result in index.search(words="cat")] == [v1]
    assert index.search(words="dog") == []
    for path in (videos / "v1.mp4", sidecar):  # moved together: nothing is read again
        path.rename(videos / "more" / path.name)
    monkeypatch.setattr(words, "_read", None)
    assert update(index, videos, remove_missing=True) == {"unchanged": 5, "moved": 1}
    moved = str(videos / "more" / "v1.mp4")
    assert [result.path for result in index.search(words="cat")] == [moved]
    monkeypatch.undo()
    (videos / "more" / "v1.en.srt").unlink()
    assert update(index, videos) == {"unchanged": 6, "subtitled": 1}
    assert texts(index) == {str(track): TEXTS, v2: ["repaired"]}
    index.remove([v2])
    assert texts(index) == {str(track): TEXTS}
    assert index._store.open_words().count_rows() == 5 + len(TEXTS)
    shutil.copyfile(videos / "v0.mp4", track)  # the content is another one
    assert update(index, videos / "more") == {"unchanged": 3}
    assert "subtitled" in update(index, videos)
    assert texts(index) == {v2: ["repaired"]}


def test_a_kill_between_clips_and_words_loses_nothing(index, videos, monkeypatch):
    (videos / "v1.srt").write_text(SRT)
    (videos / "more" / "v3.srt").write_text(SRT)
    with monkeypatch.context() as context:
        context.setattr(words, "_CHUNK", 1)
        write, calls = index._store.write_words, []

        def killed(rows):
            calls.append(rows)
            if len(calls) == 3:
                raise KeyboardInterrupt
            write(rows)

        context.setattr(index._store, "write_words", killed)
        with pytest.raises(KeyboardInterrupt):
            update(index, videos)
    assert len(index) == 5
    assert update(index, videos)["unchanged"] == 5
    expected = {str(videos / "v1.mp4"): TEXTS, str(videos / "more" / "v3.mp4"): TEXTS}
    assert texts(index) == expected
    write(calls[0] | calls[1])  # another process that read the same
    assert texts(index) == expected


def test_without_words_nothing_changes(index, videos, model, monkeypatch):
    monkeypatch.setattr(model.config, "confidence_weights", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    with monkeypatch.context() as context:
        context.setattr("modeling_glccl.search.index.update_words", lambda *_, **__: 0)
        update(index, videos)
    assert index._store.open_words() is None  # an index of before
    reopened = VideoIndex.open(index.info()["path"], index.model, index.processor)
    before = [reopened.search(caption, k=3) for caption in CAPTIONS]
    with pytest.raises(ValueError, match=r"my\.index: holds no words: put subtitle files"):
        reopened.search(words="dog")
    assert update(reopened, videos) == {"unchanged": 5}
    assert [reopened.search(caption, k=3) for caption in CAPTIONS] == before
    (videos / "v1.srt").write_text(said("not a word of it"))
    assert update(reopened, videos) == {"unchanged": 5, "subtitled": 1}
    assert [reopened.search(caption, k=3) for caption in CAPTIONS] == before
    for result in before[0]:
        assert (result.measure, result.found_by, result.words) == ("logit", "frames", None)
        assert result.confidence is not None


VOCABULARY = ["dog", "snow", "river", "bread", "lamp", "train"]


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, model, processor) -> VideoIndex:
    """300 videos of two clips (0-30 and 20-50 s), most with three cues of three words, from 5, 25 and 45 s on."""
    index = VideoIndex.create(tmp_path_factory.mktemp("spoken") / "my.index", model, processor)
    records, rng = synthetic_records(300, clips=2), np.random.default_rng(0)
    for number, record in enumerate(records):
        record.duration = 10.0 + number
    index._store.commit(records)
    said = {
        record.video_id: [
            (20.0 * cue + 5, 20.0 * cue + 6, " ".join(rng.choice(VOCABULARY, 3)))
            for cue in range(3 * (number % 3 > 0))
        ]
        for number, record in enumerate(records)
    }
    write_cues(index, said)
    return index


def fused_naively(*rankings: list[str]) -> dict[str, float]:
    """The naive twin: by the sum of 1 / (60 + rank), so scaled that the first of all rankings has 1."""
    found: dict[str, float] = {}
    for ranking in rankings:
        for place, video_id in enumerate(ranking):
            found[video_id] = found.get(video_id, 0) + 1 / (60 + place + 1)
    order = sorted(found, key=lambda video_id: found[video_id], reverse=True)
    return {video_id: found[video_id] * 61 / len(rankings) for video_id in order}


@pytest.mark.parametrize("exhaustive_clips", [1000, 100])
@pytest.mark.parametrize("k", [1, 10, 25])
def test_ranks_are_fused(spoken, monkeypatch, k, exhaustive_clips):
    monkeypatch.setattr(searcher, "EXHAUSTIVE_CLIPS", exhaustive_clips)
    depth = max(k, 10)
    by_frames = spoken.search(CAPTIONS[0], depth, no_words=True)
    for query in ({"query": CAPTIONS[0], "words": "river lamp"}, {"query": CAPTIONS[0]}):
        # CAPTIONS[0] is "a dog in the snow": both words must be said.
        by_words = spoken.search(words=query.get("words", "dog snow"), k=300)
        if "words" not in query:
            by_words = [result for result in by_words if {"dog", "snow"} <= set(result.words.text.split())]
        by_words = by_words[:depth]
        assert [r.score for r in by_words] == sorted((r.score for r in by_words), reverse=True)
        expected = fused_naively([r.video_id for r in by_words], [r.video_id for r in by_frames])
        results = spoken.search(k=k, moments=True, **query)
        assert {r.measure for r in results} == {"fused"}
        assert [r.video_id for r in results] == list(expected)[:k]
        assert [r.score for r in results] == pytest.approx(list(expected.values())[:k], abs=1e-9)
        seen, heard = {r.video_id for r in by_frames}, {r.video_id: r for r in by_words}
        for result in results:
            assert result.score == pytest.approx(expected[result.video_id], abs=1e-9)
            both = (result.video_id in seen) * ["frames"] + (result.video_id in heard) * ["words"]
            assert result.found_by == " and ".join(both)
            assert result.confidence is None
            if result.words:
                assert result.words == heard[result.video_id].words
                assert result.moment[:2] == result.words[:2]
                assert result.start <= result.words.start <= result.end


def test_every_word_must_be_said_by_default(spoken):
    for result in spoken.search(CAPTIONS[0], 300):
        assert result.words is None or {"dog", "snow"} <= set(result.words.text.split())
    assert any(result.words for result in spoken.search(CAPTIONS[0], 300))
    for options in ({"no_words": True}, {"and_": "a lamp"}, {"not_": "a lamp"}, {"min_score": -1e9}):
        assert not any(result.words for result in spoken.search(CAPTIONS[0], 300, **options))
    assert {result.measure for result in spoken.search("a lamp and a zebra", 300)} == {"logit"}
    assert {result.measure for result in spoken.search("of the")} == {"logit"}
    assert [result.words for result in spoken.search("a dog", 2, words="zebra")] == [None, None]


def test_filters_hold_for_words(spoken):
    everything = spoken.search(words="river", k=300)
    # Of clips: only what is said in them.
    found = spoken.search(words="river", k=300, where="duration > 200 AND clip = 0", min_duration=5)
    assert found
    assert {result.words.start for result in found} <= {5.0, 25.0}
    for filters, passes in (
        ({"ids": ["video1", "video2", "video4"]}, lambda number: number in (1, 2, 4)),
        ({"max_duration": 40}, lambda number: number <= 30),
    ):
        found = spoken.search(words="river", k=300, **filters)
        kept = [result.video_id for result in everything if passes(int(result.video_id.removeprefix("video")))]
        assert [result.video_id for result in found] == kept
        found = spoken.search(CAPTIONS[0], words="river", k=300, **filters)
        assert {passes(int(result.video_id.removeprefix("video"))) for result in found} == {True}


def test_one_video_cannot_crowd_out_the_others(index):
    index._store.commit(synthetic_records(4))
    ids = {f"video{number}" for number in range(4)}
    said = {video_id: [(1.0, 2.0, "a dog and lots else")] for video_id in ids} | {"video0": 2500 * [(3.0, 4.0, "dog")]}
    write_cues(index, said)
    assert index.search(words="dog")[0].video_id == "video0"
    assert {result.video_id for result in index.search(words="dog")} == ids
    assert [result.video_id for result in index.search(words="dog", ids="video3")] == ["video3"]
    index._store.compact_words()
    assert {result.video_id for result in index.search(words="dog")} == ids


class Whisper:
    """Stands in for faster_whisper's model."""

    made, heard, error = [], [], None

    def __init__(self, name, **options):
        if name == "none":
            raise RuntimeError("no such model")
        Whisper.made.append((name, options))

    def transcribe(self, path, **options):
        Whisper.heard.append((Path(path).name, options))
        if Whisper.error:
            raise Whisper.error
        return iter([SimpleNamespace(start=1.0, end=2.0, text=" a whispered word")]), None


@pytest.fixture
def whisper(monkeypatch):
    Whisper.made, Whisper.heard, Whisper.error = [], [], None
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=Whisper))
    load_speech.cache_clear()
    yield Whisper
    load_speech.cache_clear()


def test_videos_without_subtitles_are_transcribed(index, tmp_path, whisper):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("loud", "titled"):
        write_with_sound(folder / f"{name}.mp4", 50)
    write_video(folder / "mute.mp4", 10, fps=5)
    (folder / "titled.srt").write_text(SRT)
    loud, titled = str(folder / "loud.mp4"), str(folder / "titled.mp4")
    assert update(index, folder)["subtitled"] == 1
    assert update(index, folder, speech="small") == {"unchanged": 3, "subtitled": 1}
    assert whisper.heard == [("loud.mp4", {"vad_filter": True})]
    assert whisper.made == [("small", {"device": "cpu", "compute_type": "int8"})]
    expected = {loud: ["a whispered word"], titled: TEXTS}
    assert texts(index) == expected
    for options in ({}, {"speech": "small"}, {"retry_failed": True}):
        assert update(index, folder, **options) == {"unchanged": 3}
    assert (texts(index), len(whisper.heard)) == (expected, 1)
    whisper.error = RuntimeError("out of memory")
    update(index, folder, speech="large")  # another model
    assert "cannot be transcribed: RuntimeError: out of memory" in index.errors()[loud]
    whisper.error = None
    update(index, folder, speech="large", retry_failed=True)
    assert (texts(index), index.errors()) == (expected, {})


def test_speech_without_the_package_or_the_model(index, videos, monkeypatch, whisper):
    with pytest.raises(ValueError, match=r"speech='none': cannot be loaded as a model .*: no such model"):
        index.update(videos, speech="none", progress=False)
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r'pip install .*\[speech\]"'):
        index.update(videos, speech="small", progress=False)
    assert len(index) == 0


def test_words_on_the_command_line(run, videos, checkpoint, tmp_path):
    (videos / "v1.srt").write_text(said("a &lt;dog&gt; in the snow"))
    (videos / "v2.srt").write_bytes(b"\0")
    _, printed = run("index", videos, "--index", "my.index", "--model", checkpoint)
    assert "5 videos (5 added, 1 subtitled)" in printed
    assert "v2.srt: is no text" in run("index", "--index", "my.index", "--errors")[1]

    def search(*arguments):
        return run("search", "--index", "my.index", *arguments)[1]

    printed = search("a dog in the snow", "--html", "page.html")
    for text in ("fused ranks", "found by", "frames and words", "said", "dog", "0:01.0 - 0:02.5"):
        assert text in printed
    assert "found by frames and words: &quot;a" in (tmp_path / "page.html").read_text()
    assert "found by" not in search("a dog in the snow", "--no-words")
    found = json.loads(search("--words", "snow", "--json"))
    assert [result["video_id"] for result in found] == [str(videos / "v1.mp4")]
    assert (found[0]["found_by"], found[0]["measure"], found[0]["moment"]["start"]) == ("words", "words", 1.0)
    assert (found[0]["words"]["start"], found[0]["words"]["end"]) == (1.0, 2.5)
    assert '"snow" is said' in search("--words", "snow", "--html", "page.html")
    assert "<article>" in (tmp_path / "page.html").read_text()
    assert search("--words", "zebra") == "nothing fits: no video has such words\n"
    assert "words='': give 1 to 2,000 characters" in search("--words", "")
    lines = [{"words": "snow"}, {"query": "a dog", "words": "snow"}, {"query": "snow", "no_words": True}]
    (tmp_path / "queries").write_text("\n".join(map(json.dumps, lines)))
    answers = [json.loads(line) for line in search("--queries", "queries").splitlines()]
    assert [answer["results"][0]["measure"] for answer in answers] == ["words", "fused", "logit"]
