"""200 kills at random moments: of a growing index, a training with a cache, compressing and exporting."""

import json
import sys
from pathlib import Path

import kill_operations
import pytest
from checkpoints import save_tiny_checkpoint
from kills import finish, kill_at_random
from search_data import CAPTIONS, assert_same_contents, contents
from training_runs import logged, write_recipe
from videos import write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The server that forks the killed processes imports what this file imports."""
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("TQDM_DISABLE", "1")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_growing_index(tmp_path):
    from modeling_glccl.search import VideoIndex

    inputs = tmp_path / "inputs"
    (inputs / "videos").mkdir(parents=True)
    save_tiny_checkpoint(inputs / "checkpoint", CAPTIONS)
    for number in range(24):
        write_video(inputs / "videos" / f"v{number:02}.mp4", 30 + 3 * number, fps=5)
    (inputs / "videos" / "v99.mp4").write_bytes(b"no video")
    promised = {}

    def check(folder: Path) -> None:
        marks = [line for line in (folder / "notes").read_text().splitlines(keepends=True) if line.endswith("]\n")]
        now = {video_id for mark in marks for video_id in json.loads(mark.removeprefix("acknowledged "))}
        before = promised.setdefault(folder, set())
        assert not now & before  # nothing is done twice
        before |= now
        if before:
            assert before <= contents(VideoIndex.open(folder / "my.index")).keys()

    def compare(killed: Path, whole: Path) -> None:
        check(killed)
        assert_same_contents(VideoIndex.open(killed / "my.index"), VideoIndex.open(whole / "my.index"))

    kill_at_random(kill_operations.add_to_an_index, compare, tmp_path, kills=70, seed=0, check=check)


def test_a_training_with_a_frame_cache(tmp_path):
    write_recipe(tmp_path / "inputs", tmp_path / "inputs" / "shapes")

    def outcome(folder: Path) -> list:
        results = json.loads((folder / "run" / "results.json").read_text())
        return [logged(folder / "run"), results["history"], results["test"], files(folder / "cache").keys()]

    def compare(killed: Path, whole: Path) -> None:
        assert outcome(killed) == outcome(whole)

    kill_at_random(kill_operations.train_with_a_cache, compare, tmp_path, kills=50, seed=1)


def test_compressing(tmp_path):
    (tmp_path / "inputs").mkdir()
    for number in range(8):
        write_video(tmp_path / "inputs" / f"{number}.mp4", 100, size=(320, 240))

    def compare(killed: Path, whole: Path) -> None:
        found, expected = files(killed / "out"), files(whole / "out")
        assert found.keys() == expected.keys()
        assert all(found[name] == expected[name] for name in expected if name.endswith(".mp4"))

    kill_at_random(kill_operations.compress, compare, tmp_path, kills=40, seed=2)


def test_exporting(tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "once").mkdir()
    finish(kill_operations.export, tmp_path / "once")  # renders the videos

    def compare(killed: Path, whole: Path) -> None:
        assert files(killed / "out") == files(whole / "out")
        assert [entry.name for entry in killed.iterdir()] == ["out"]

    kill_at_random(kill_operations.export, compare, tmp_path, kills=40, seed=3)
