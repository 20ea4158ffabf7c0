"""The web page: what it shows of a result, and that its parts agree with the model."""

import html
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hostile import HANGING, hanging
from hub_server import local_hub
from huggingface_hub import SpaceCard
from paths import REPOSITORY
from PIL import Image
from remote_code import run_without_package
from transformers import pipeline
from videos import write_video

gradio = pytest.importorskip("gradio")

from modeling_glccl import serving  # noqa: E402
from modeling_glccl.app import Uploads, build_app, open_searcher, players_html  # noqa: E402
from modeling_glccl.cli import main  # noqa: E402
from modeling_glccl.features_glccl import Moment  # noqa: E402
from modeling_glccl.library import FAULT, Library, SearchRequest  # noqa: E402
from modeling_glccl.search import SearchResult  # noqa: E402
from modeling_glccl.search.rendering import group_words  # noqa: E402
from modeling_glccl.search.words import Cue  # noqa: E402
from modeling_glccl.video_decoding_glccl import decode_video  # noqa: E402
from modeling_glccl.video_files import find_videos  # noqa: E402

SPACE = REPOSITORY / "hub" / "space"
QUERY = "a red ball bounces"


def search_all(query, indexes, k):
    return Library(indexes[0], "").find(SearchRequest(query=query, k=k), indexes[1:])


def form(query="", and_=None, not_=None, folder=None, since=None, until=None, shortest="", longest="", confidence=0):
    """What the fields of the page hold; None where they were never shown."""
    return [query, and_, not_, folder, since, until, shortest, longest, confidence]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app") / "my videos"
    (folder / "more").mkdir(parents=True)
    for name, frames in (("a.mp4", 20), ("b & c.mp4", 30), ("more/d.mp4", 9)):
        write_video(folder / name, frames, fps=10)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return pipeline("text-video-retrieval", model=str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def opened(checkpoint, folder):
    """What `glccl serve CHECKPOINT --videos FOLDER` searches."""
    return open_searcher(checkpoint=str(checkpoint), videos=folder)


def test_a_search_encodes_its_query_once_and_decodes_nothing(opened, folder, tmp_path, monkeypatch):
    index, temporary = opened
    mine = Uploads(index, temporary.name)
    mine.show([str(write_video(tmp_path / "mine.mp4", 12, fps=10))])
    encode, encoded = index.model.get_text_features, []
    monkeypatch.setattr(index.model, "get_text_features", lambda *a, **k: encoded.append(a) or encode(*a, **k))
    monkeypatch.setattr("av.open", lambda *_, **__: pytest.fail("a video was decoded"))
    page = players_html(QUERY, search_all(QUERY, [index, mine.index], 4), index.processor)
    assert page.count("<video ") == 4
    assert page.count('<th title="bounces">') == 4
    assert len(encoded) == 1
    mine.close()


def test_an_index_of_glccl_index_is_served(checkpoint, folder, opened, tmp_path):
    assert main(["index", str(folder), "--index", str(tmp_path / "index"), "--model", str(checkpoint)]) == 0
    index, _ = open_searcher(index=tmp_path / "index")
    found, wanted = (search_all(QUERY, [one], 3) for one in (index, opened[0]))
    assert [(result.path, result.score) for result in found] == [(result.path, result.score) for result in wanted]


def test_what_cannot_be_read_is_listed_and_left_out(checkpoint, folder, tmp_path, capsys):
    videos = tmp_path / "videos"
    shutil.copytree(folder, videos)
    (videos / "junk.mp4").write_bytes(b"no video")
    (videos / "._a.mp4").write_bytes(b"a Mac's notes")
    os.mkfifo(videos / "pipe.mp4")
    (videos / "folder.mp4").mkdir()
    index, temporary = open_searcher(checkpoint=str(checkpoint), videos=videos)
    printed = capsys.readouterr().out
    assert "other files ignored: 1 (suffixes .txt)" in printed
    assert f"{videos / 'junk.mp4'}: " in printed
    assert f"{videos / 'pipe.mp4'}: is not a regular file" in printed
    assert len(index) == 3
    assert Path(temporary.name).is_dir()
    temporary.cleanup()
    for name in ("a.mp4", "b & c.mp4", "more/d.mp4"):
        (videos / name).unlink()
    with pytest.raises(ValueError, match="not one video there can be read"):
        open_searcher(checkpoint=str(checkpoint), videos=videos)


def test_uploads_are_indexed_once_and_deleted_with_the_session(opened, tmp_path, monkeypatch):
    index, temporary = opened
    uploads = Uploads(index, temporary.name)
    encode, encoded = index.model.get_video_features, []
    monkeypatch.setattr(index.model, "get_video_features", lambda *a: encoded.append(len(a[0])) or encode(*a))
    one, two = (str(write_video(tmp_path / name, 9 + i, fps=5)) for i, name in enumerate(("one.mp4", "two.mp4")))
    bad = tmp_path / "<b>.mp4"
    bad.write_bytes(b"no video")
    assert uploads.show([one, str(bad)])[0] == "one.mp4 is searched now."
    (error,) = uploads.show([one, one, str(bad)])  # once more: said of the bad one only
    assert error == "**This did not work:** &lt;b&gt;.mp4: is not a video that FFmpeg can read"
    assert uploads.show([two, one]) == ["two.mp4 is searched now."]
    assert encoded == [1, 1]
    names = {Path(result.path).name for result in search_all(QUERY, [index, uploads.index], 9)}
    assert names == {"a.mp4", "b & c.mp4", "d.mp4", "one.mp4", "two.mp4"}
    assert uploads.show([two]) == []
    assert [result.path for result in uploads.index.search(QUERY)] == [two]
    assert len(index) == 3  # nobody else finds them
    folder = Path(uploads.index.info()["path"])
    assert folder.is_dir()
    uploads.close()
    assert not folder.parent.exists()


def test_the_page_gives_every_session_its_own_uploads(opened, tmp_path):
    """Through the functions of the page: what its state goes through from the first upload to the end."""
    blocks = build_app(*opened)
    functions = {function.name: function.fn for function in blocks.fns.values()}
    state, _ = (block for block in blocks.blocks.values() if isinstance(block, gradio.State))
    mine = str(write_video(tmp_path / "mine.mp4", 12, fps=10))
    assert functions["add"]([], None) == ("", None)
    message, uploads = functions["add"]([mine], state.value)
    assert message == "mine.mp4 is searched now."
    assert functions["add"]([mine], uploads) == ("", uploads)
    search = functions["search"]
    assert search([], uploads, *form(QUERY))[1].count("<article>") == 4
    assert search([], None, *form(QUERY))[1].count("<article>") == 3
    assert search([], None, *form(" "))[0] == "Type what happens in the video, or give an example."
    for field in ("query", "and_", "not_"):
        assert f"{field.strip('_')}" in (message := search([], None, *form(**{"query": QUERY, field: "a" * 2001}))[0])
        assert "at most 2000 characters" in message
    assert "not: List should have at most 8 items" in search([], None, *form(QUERY, not_="a\n" * 9))[0]
    folder = Path(uploads.index.info()["path"])
    state.delete_callback(uploads)
    assert not folder.exists()
    state.delete_callback(None)


def test_uploads_beyond_the_limits_are_refused(opened, tmp_path, monkeypatch):
    index, temporary = opened
    uploads = Uploads(index, temporary.name)
    monkeypatch.setattr(serving, "MAX_VIDEOS", 2)
    monkeypatch.setattr(serving, "MAX_VIDEO_SECONDS", 1.5)
    long, *others = (str(write_video(tmp_path / f"{n}.mp4", n, fps=10)) for n in (90, 10, 11))
    fault = "**This did not work:** "
    assert uploads.show([long, *others]) == [
        f"{fault}3 videos; the first 2 are searched",
        f"{fault}90.mp4: lasts 9 s; at most 2 s are allowed",
        "10.mp4 is searched now.",
    ]
    assert [result.path for result in uploads.index.search(QUERY)] == others[:1]
    assert uploads.show(others) == ["11.mp4 is searched now."]
    uploads.close()


def test_files_are_deleted_with_the_last_session_that_has_them(opened, tmp_path, monkeypatch):
    index, temporary = opened
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    files = [tmp_path / "cache" / name / "v.mp4" for name in ("mine", "both", "other")] + [tmp_path / "elsewhere.mp4"]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, 10 + number, fps=10)
    mine, both, other, elsewhere = files
    one, two = (Uploads(index, temporary.name) for _ in range(2))
    one.show([str(mine), str(both), str(elsewhere)])
    two.show([str(both)])
    one.show([])  # taken off the list, they are still this visitor's
    one.close()
    assert [file for file in files if file.exists()] == [both, other, elsewhere]
    assert not mine.parent.exists()
    two.close()
    assert [file for file in files if file.exists()] == [other, elsewhere]


def test_an_upload_that_hangs_its_decoder_is_ended_and_the_next_is_searched(opened, folder, tmp_path, monkeypatch):
    index, temporary = opened
    started = hanging(monkeypatch)
    uploads = Uploads(index, temporary.name)
    good, bad = str(folder / "a.mp4"), tmp_path / "bad.mp4"
    bad.write_bytes(HANGING)
    assert uploads.show([good]) == ["a.mp4 is searched now."]
    with monkeypatch.context() as short:
        short.setattr(serving, "TIMEOUT_SECONDS", 1)
        (message,) = uploads.show([good, str(bad)])
    assert message == "**This did not work:** bad.mp4: could not be decoded in the time allowed"
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert uploads.show([str(folder / "b & c.mp4")]) == ["b & c.mp4 is searched now."]
    assert len(started) == 2
    uploads.close()
    started[1].communicate()


def test_what_a_library_says_of_an_upload_stays_here(opened, folder, monkeypatch):
    def fail(*arguments):
        raise ValueError("secret")

    index, temporary = opened
    monkeypatch.setattr(index.model, "get_video_features", fail)
    uploads = Uploads(index, temporary.name)
    assert uploads.show([str(folder / "a.mp4")]) == ["**This did not work:** a.mp4: cannot be searched"]
    uploads.close()


def test_words_are_those_of_the_query_whatever_their_tokens(pipe):
    query = "unbelievable Ünïcode, ball"
    slots = pipe.processor(text=[query])["input_ids"].shape[1]
    weights = np.arange(slots * 2, dtype=float).reshape(slots, 2)
    words = group_words(query, weights, pipe.processor)
    assert [word for word, _ in words] == ["unbelievable", "ünïcode", ",", "ball"]
    pieces = len(pipe.processor.tokenizer.tokenize("unbelievable"))
    assert pieces > 1
    np.testing.assert_allclose(words[0][1], weights[1 : pieces + 1].mean(axis=0))


def test_names_and_words_cannot_become_markup(pipe):
    query = '<i> "onclick= ball'
    slots = pipe.processor(text=[query])["input_ids"].shape[1]
    result = SearchResult(
        video_id="a",
        path="/videos/<b>&\"'.mp4",
        score=1.5,
        start=0.0,
        end=2.0,
        duration=2.0,
        moment=Moment(1.0, 2.0, 1.5),
        frame_times=np.array([0.5, 1.5]),
        frame_weights=np.array([0.2, 0.8]),
        word_weights=np.full((slots, 2), 0.5),
        words=Cue(1.0, 2.0, "<i>said</i>"),
    )
    page = players_html(query, [result], pipe.processor)
    assert "<i>" not in page
    assert "<b>" not in page
    assert '"onclick=' not in page.replace(' onclick="', "")
    assert re.search(r'src="videos/[0-9a-f]{32}#t=1.00,2.00"', page)
    assert "/videos/<b>" not in html.unescape(page)  # where the file lies
    assert "<h3>&lt;b&gt;&amp;&quot;&#x27;.mp4</h3>" in page
    assert "sentence at 1.5 s: 80 %" in page
    assert page.count('class="moment"') == 1


@pytest.fixture(scope="module")
def functions(opened):
    """Those of the page, which is built without a network, by name."""
    with pytest.MonkeyPatch.context() as offline:
        offline.setattr("socket.socket.connect", lambda *arguments: pytest.fail(f"connects to {arguments[1:]}"))
        blocks = build_app(*opened, examples=[QUERY])
    assert blocks.analytics_enabled is False
    return {function.name: function.fn for function in blocks.fns.values()}


def test_the_page_says_where_probably_nothing_fits(functions, opened, monkeypatch):
    for constant in (-50.0, 50.0):
        monkeypatch.setattr(opened[0].model.config, "confidence_weights", [constant] + 5 * [0.0])
        said = functions["search"]([], None, *form(QUERY))[0]
        assert said == "Probably nothing fits: no video has a confidence above 0%" * (constant < 0)


def shown(answer) -> list[str]:
    return re.findall("<h3>(.*?)</h3>", html.unescape(answer[1]))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"folder": "more"}, ["d.mp4"]),
        ({"shortest": "1.5", "longest": "2.5", "since": "2020-01-01", "until": "2100-01-01"}, ["a.mp4"]),
    ],
)
def test_the_filters_of_the_page_are_those_of_the_search(functions, opened, folder, fields, names):
    answer = functions["search"]([], None, *form(QUERY, **fields))
    assert answer[0] == ""
    assert sorted(shown(answer)) == names
    expected = opened[0].search(QUERY, ids=[str(path) for path in folder.rglob("*.mp4") if path.name in names])
    assert shown(answer) == [Path(result.path).name for result in expected]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"folder": "elsewhere"}, "no video passes the filters"), ({"since": "soon"}, "since.date: Input should be a")],
)
def test_what_a_filter_says_of_a_fault_names_no_folder(functions, folder, fields, message):
    said, page, *_ = functions["search"]([], None, *form(QUERY, **fields))
    assert message in said
    assert page == ""
    assert str(folder.parent) not in said


def test_more_shows_the_next_results_below_the_first(functions, monkeypatch):
    monkeypatch.setattr("modeling_glccl.app.RESULTS", 1)
    first = functions["search"]([], None, *form(QUERY))
    seen, answer = [shown(first)], first
    while answer[2].visible:
        answer = functions["more"](answer[3], None)
        seen.append(shown(answer))
    assert [len(names) for names in seen] == [1, 2, 3]
    assert [names[:-1] for names in seen[1:]] == seen[:-1]
    assert answer[1].startswith(first[1].removesuffix("</div>"))


def test_a_click_finds_what_is_like_the_moment(functions, opened, folder):
    index, _ = opened
    result = index.search(QUERY, moments=True)[0]
    like = re.search('data-like="(.*?)"', functions["search"]([], None, *form(QUERY))[1])[1]
    answer = functions["alike"](gradio.EventData(None, {"like": like}), None, *form("ignored", longest="3"))
    span = f"@{result.moment.start:.3f}-{result.moment.end:.3f}"
    expected = index.search_like(like=result.video_id + span, max_duration=3, moments=True)
    assert shown(answer) == [Path(found.path).name for found in expected]
    assert f"similarity (not GLCCL's) {expected[0].score:.2f}" in html.unescape(answer[1])
    message = functions["alike"](gradio.EventData(None, {"like": f"{like.partition('@')[0]}@90-99"}), None, *form())[0]
    assert "@90-99: none of its 4 stored frames lies there" in message
    assert str(folder) not in message
    unknown = functions["alike"](gradio.EventData(None, {"like": str(folder / "a.mp4")}), None, *form())[0]
    assert "is no video of this library" in unknown


@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_an_example_finds_what_is_like_it_and_is_deleted_with_the_session(
    functions, opened, folder, tmp_path, monkeypatch, suffix
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    example = tmp_path / "cache" / "mine" / f"example.{suffix}"
    example.parent.mkdir(parents=True)
    if suffix == "png":
        Image.fromarray(decode_video(folder / "a.mp4", 1).frames[0]).save(example)
        expected = opened[0].search_like(image=example)
    else:
        shutil.copy(folder / "a.mp4", example)
        expected = opened[0].search_like(video=example)
    answer = functions["search"]([str(example)], None, *form())
    assert shown(answer) == [Path(found.path).name for found in expected]
    assert f"similarity (not GLCCL's) {expected[0].score:.2f}" in html.unescape(answer[1])
    assert len(shown(functions["more"](answer[3], answer[4]))) == 3
    answer[4].close()
    assert not example.exists()


def test_examples_beyond_the_limits_are_refused(functions, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "MAX_VIDEO_SECONDS", 1.0)
    monkeypatch.setattr(serving, "MAX_IMAGE_PIXELS", 99)
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("RGB", (10, 10)).save(tmp_path / "large.png")
    write_video(tmp_path / "long.mp4", 20, fps=10)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for message in (
        "script.png: is no image (BMP, GIF, JPEG, PNG, WEBP)",
        "large.png: has 100 pixels; at most 99 are allowed",
        "long.mp4: lasts 2 s; at most 1 s are allowed",
        "bad.mp4: is not a video that FFmpeg can read",
    ):
        answer = functions["search"]([str(tmp_path / message.partition(":")[0])], None, *form(QUERY))
        assert answer[:2] == (f"**This did not work:** {message}", "")
        answer[4].close()


def test_near_duplicates_are_shown_in_groups(checkpoint, folder, tmp_path):
    for name in ("a.mp4", "copy.mp4"):
        shutil.copy(folder / "a.mp4", tmp_path / name)
    app = build_app(*open_searcher(checkpoint=str(checkpoint), videos=tmp_path))
    (find,) = (function.fn for function in app.fns.values() if function.name == "duplicates")
    page = find(0.93)
    assert "2 videos in 1 groups" in page
    assert re.findall("<h3>(.*?)</h3>", page) == ["a.mp4", "copy.mp4"]
    assert str(tmp_path) not in page
    shutil.rmtree(app.library.index.path)
    assert find(0.93) == FAULT


def test_what_to_search_must_be_said(tmp_path):
    with pytest.raises(ValueError, match="Pass --index, or a checkpoint and --videos"):
        open_searcher(checkpoint="somewhere")
    for name in ("checkpoint", "videos", "runtime"):
        with pytest.raises(ValueError, match=r"my\.index has its own, which is used; leave it out"):
            open_searcher("my.index", **{name: "another"})
    with pytest.raises(ValueError, match=r"no videos there \(suffixes .mp4"):
        open_searcher(checkpoint="somewhere", videos=tmp_path)


@pytest.mark.slow
def test_the_space_renders_shapes_where_it_has_no_videos(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLCCL_CHECKPOINT", str(tmp_path / "checkpoint"))
    spec = importlib.util.spec_from_file_location("glccl_space", SPACE / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert app.checkpoint() == str(tmp_path / "checkpoint")
    monkeypatch.delenv("GLCCL_CHECKPOINT")
    assert app.checkpoint() == str(SPACE.parent / "models" / "glccl-shapes")
    videos, examples = app.videos_and_examples()
    assert len(find_videos(videos).videos) == 24
    assert len(app.demo.fns) > 0
    assert 1 < len(set(examples)) == len(examples)


SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download

folder = snapshot_download("someone/space", repo_type="space")
sys.path.insert(0, folder)
import app, modeling_glccl
assert modeling_glccl.__file__.startswith(folder), modeling_glccl.__file__
print(app.checkpoint() == folder + "/checkpoint", len(app.demo.fns) > 0)
"""


@pytest.mark.slow
def test_the_space_runs_from_what_its_readme_uploads(pipe, tmp_path):
    """Line by line, against a server that speaks the Hub's API; then in a process that has the Space alone."""
    root = SPACE.parent.parent
    for name in ("hub/space", "modeling_glccl"):
        shutil.copytree(root / name, tmp_path / name)
        (tmp_path / name / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / name / "__pycache__" / "app.pyc").write_bytes(b"")
    pipe.save_pretrained(tmp_path / "hub" / "models" / "glccl-shapes")
    lines = (SPACE / "README.md").read_text().partition("```bash\n")[2].partition("```")[0]
    hf = f"{shlex.quote(sys.executable)} -m huggingface_hub.cli.hf "
    script = lines.replace("owner/", "someone/").replace("hf upload", f"{hf} upload")
    with local_hub() as hub:
        environment = os.environ | hub.environment(tmp_path / "cache")
        run = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        files = hub.repositories["space", "someone/space"].files()
        assert {"app.py", "README.md", "requirements.txt"} < set(files)
        assert {"modeling_glccl/app.py", "checkpoint/config.json"} < set(files)
        assert not [name for name in files if name.endswith(".pyc")]
        (tmp_path / "client").mkdir()
        printed = run_without_package(SNAPSHOT, tmp_path / "client", **hub.environment(tmp_path / "client" / "cache"))
    assert printed.split()[-2:] == ["True", "True"]


def test_the_space_requires_what_the_package_does_and_the_search_and_datasets():
    project = tomllib.loads((SPACE.parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    datasets = [line for line in extras["train"] if line.startswith("datasets")]
    expected = {*project["dependencies"], *extras["search"], *datasets}
    assert set((SPACE / "requirements.txt").read_text().split()) == expected


def test_the_space_says_what_it_runs_on():
    data = SpaceCard((SPACE / "README.md").read_text()).data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "apache-2.0")
    assert f"gradio=={data.sdk_version}" in (SPACE.parent.parent / "constraints.txt").read_text()
    assert (SPACE / data.app_file).is_file()
