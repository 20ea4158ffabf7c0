"""The web page: what it shows of a result, and that its parts agree with the model."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import save_tiny_checkpoint
from hub_server import local_hub
from huggingface_hub import SpaceCard
from remote_code import run_without_package
from transformers import pipeline
from videos import write_video

gradio = pytest.importorskip("gradio")

from modeling_glccl.app import (  # noqa: E402
    FolderSearcher,
    Found,
    IndexSearcher,
    build_app,
    find_videos,
    open_searcher,
    results_html,
    word_weights,
)
from modeling_glccl.cli import main  # noqa: E402

SPACE = Path(__file__).parent.parent / "hub" / "space"
QUERY = "a red ball bounces"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app") / "my videos"
    (folder / "more").mkdir(parents=True)
    for name, frames in (("a.mp4", 20), ("b & c.mp4", 30), ("more/d.mp4", 9)):
        write_video(folder / name, frames, fps=10)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("app") / "checkpoint"
    save_tiny_checkpoint(checkpoint, [QUERY, "a blue square slides to the left"])
    return pipeline("text-video-retrieval", model=str(checkpoint), device="cpu")


def test_a_folder_is_searched_with_the_weights_of_frames_and_words(pipe, folder):
    paths = find_videos(folder)
    assert [path.rpartition("/")[2] for path in paths] == ["a.mp4", "b & c.mp4", "d.mp4"]
    found = FolderSearcher(pipe, pipe.index(paths)).search(QUERY, 2)
    expected = pipe(QUERY, videos=paths, top_k=2, moments=True)
    assert [(f.path, f.score, f.start, f.end) for f in found] == [
        (e["id"], e["score"], e["start"], e["end"]) for e in expected
    ]
    for result in found:
        assert result.weights.sum() == pytest.approx(1, abs=1e-5)
        assert [word for word, _ in result.words] == ["a", "red", "ball", "bounces"]
        for _, weights in result.words:
            assert weights.sum() == pytest.approx(1, abs=1e-5)
            assert weights.shape == result.times.shape


def test_an_index_is_searched_through_its_own_search(pipe, folder):
    """The index's interface, as the page uses it; the weights of words come from decoding the clip again."""
    paths = find_videos(folder)
    expected = FolderSearcher(pipe, pipe.index(paths)).search(QUERY, 2)

    class Index:
        model, processor = pipe.model, pipe.processor

        def search(self, query, k, moments):
            return [
                SimpleNamespace(
                    path=found.path,
                    score=found.score,
                    start=0.0,
                    end=9.0,
                    duration=3.0,
                    moment=SimpleNamespace(start=found.start, end=found.end),
                    frame_times=found.times,
                    frame_weights=found.weights,
                )
                for found in expected[:k]
            ]

    for result, wanted in zip(IndexSearcher(Index()).search(QUERY, 2), expected, strict=True):
        assert (result.path, result.score, result.start) == (wanted.path, wanted.score, wanted.start)
        for (word, weights), (name, values) in zip(result.words, wanted.words, strict=True):
            assert word == name
            np.testing.assert_allclose(weights, values, atol=1e-5)
    expected[0].path = str(folder / "gone.mp4")
    assert IndexSearcher(Index()).search(QUERY, 1)[0].words == []


def test_an_index_of_glccl_index_is_served(pipe, folder, tmp_path):
    search = pytest.importorskip("modeling_glccl.search", reason="lancedb is not installed: pip install '.[search]'")
    pipe.save_pretrained(tmp_path / "model")
    assert main(["index", str(folder), "--index", str(tmp_path / "index"), "--model", str(tmp_path / "model")]) == 0
    searcher, opened = open_searcher(index=tmp_path / "index")
    assert isinstance(searcher.index, search.VideoIndex)
    found = searcher.search(QUERY, 3)
    expected = FolderSearcher(pipe, pipe.index(find_videos(folder))).search(QUERY, 3)
    assert [result.path for result in found] == [result.path for result in expected]
    np.testing.assert_allclose([f.score for f in found], [e.score for e in expected], atol=0.05)  # stored as float16
    assert [word for word, _ in found[0].words] == QUERY.split()
    assert opened.index(find_videos(folder)[:1]).features.frames.shape[0] == 1


def test_words_are_those_of_the_query_whatever_their_tokens(pipe):
    slots = pipe.processor(text=["unbelievable Ünïcode, ball"])["input_ids"].shape[1]
    weights = np.arange(slots * 2, dtype=float).reshape(slots, 2)
    words = word_weights(pipe.processor, "unbelievable Ünïcode, ball", weights)
    assert [word for word, _ in words] == ["unbelievable", "ünïcode", ",", "ball"]
    pieces = len(pipe.processor.tokenizer.tokenize("unbelievable"))
    assert pieces > 1
    np.testing.assert_allclose(words[0][1], weights[1 : pieces + 1].mean(axis=0))


def test_names_and_words_cannot_become_markup():
    found = Found(
        path="/videos/<b>&\"'.mp4",
        name="<script>alert(1)</script>",
        score=1.5,
        start=1.0,
        end=2.0,
        times=np.array([0.5, 1.5]),
        weights=np.array([0.2, 0.8]),
        words=[("<i>", np.array([0.5, 0.5])), ('"onclick=', np.array([0.5, 0.5]))],
    )
    page = results_html([found])
    assert "<script>" not in page
    assert "<i>" not in page
    assert '"onclick=' not in page.replace(' onclick="', "")
    assert 'src="gradio_api/file=/videos/%3Cb%3E%26%22%27.mp4#t=1.00,2.00"' in page
    assert "sentence at 1.5 s: 80 %" in page
    assert page.count('class="moment"') == 1


def test_what_to_search_must_be_said(tmp_path):
    with pytest.raises(ValueError, match="Pass --index, or a checkpoint and --videos"):
        open_searcher(checkpoint="somewhere")
    with pytest.raises(FileNotFoundError, match="holds no video"):
        find_videos(tmp_path)


def test_the_page_is_built_without_a_network(pipe, folder, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail(f"connects to {arguments[1:]}"))
    blocks = build_app(FolderSearcher(pipe, pipe.index(find_videos(folder))), pipe, examples=[QUERY])
    assert blocks.analytics_enabled is False


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
    assert len(set(videos)) == 24
    assert all(Path(video).is_file() for video in videos)
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


def test_the_space_requires_what_the_package_does_and_datasets():
    project = tomllib.loads((SPACE.parent.parent / "pyproject.toml").read_text())["project"]
    datasets = [line for line in project["optional-dependencies"]["train"] if line.startswith("datasets")]
    assert set((SPACE / "requirements.txt").read_text().split()) == {*project["dependencies"], *datasets}


def test_the_space_says_what_it_runs_on():
    data = SpaceCard((SPACE / "README.md").read_text()).data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "apache-2.0")
    assert f"gradio=={data.sdk_version}" in (SPACE.parent.parent / "constraints.txt").read_text()
    assert (SPACE / data.app_file).is_file()
