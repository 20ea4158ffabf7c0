"""206 kills at random moments, and full disks: a growing index, a training with a cache, compressing, exporting.

Each goes on where it was and ends as if nothing had happened.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import kill_operations
import pytest
from checkpoints import save_tiny_checkpoint
from kills import attempt, finish, kill_at_random
from search_data import CAPTIONS, assert_same_contents, contents
from training_runs import logged, write_recipe
from videos import write_video

from modeling_glccl.search import VideoIndex

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The server that forks the killed processes imports what this file imports."""
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("TQDM_DISABLE", "1")


def files(folder: Path) -> dict[str, bytes]:
    """Without what was just being written: a kill may leave it behind under a name that nothing reads."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if ".partial" not in name}


def prepare_index(inputs: Path) -> None:
    (inputs / "videos").mkdir(parents=True)
    save_tiny_checkpoint(inputs / "checkpoint", CAPTIONS)
    for number in range(24):
        write_video(inputs / "videos" / f"v{number:02}.mp4", 30 + 3 * number, fps=5)
        cue = f"1\n00:00:01,000 --> 00:00:02,000\nvideo {number}\n"
        (inputs / "videos" / f"v{number:02}.srt").write_text(cue)
    (inputs / "videos" / "v99.mp4").write_bytes(b"no video")


def compare_indexes(one: Path, whole: Path) -> None:
    indexes = [VideoIndex.open(folder / "my.index") for folder in (one, whole)]
    assert_same_contents(*indexes)
    said = [sorted(row["text"] for row in index._store.word_rows(["text"], "cue > 0")) for index in indexes]
    assert said[0] == said[1]
    assert len(said[1]) == 24


def prepare_training(inputs: Path) -> None:
    write_recipe(inputs, inputs / "shapes")


def compare_trainings(one: Path, whole: Path) -> None:
    for tag in ("train/loss", "train/gradient_norm"):
        assert logged(one / "run", tag) == logged(whole / "run", tag)
    results = [json.loads((folder / "run" / "results.json").read_text()) for folder in (one, whole)]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["test"] == results[1]["test"]
    assert files(one / "cache") == files(whole / "cache")


def prepare_compressing(inputs: Path) -> None:
    inputs.mkdir()
    for number in range(8):
        write_video(inputs / f"{number}.mp4", 100, size=(320, 240))


def compare_compressed(one: Path, whole: Path) -> None:
    found, expected = files(one / "out"), files(whole / "out")
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in expected if name.endswith(".mp4"))


def prepare_exporting(inputs: Path) -> None:
    inputs.mkdir()
    rendered = inputs.parent / "rendered"
    rendered.mkdir()
    finish(kill_operations.export, rendered)


def prepare_model(inputs: Path) -> None:
    save_tiny_checkpoint(inputs / "checkpoint", CAPTIONS)


def compare_exports(one: Path, whole: Path) -> None:
    assert files(one) == files(whole)


OPERATIONS = {
    "index": (kill_operations.add_to_an_index, prepare_index, compare_indexes, 40),
    "training": (kill_operations.train_with_a_cache, prepare_training, compare_trainings, 50),
    "compressing": (kill_operations.compress, prepare_compressing, compare_compressed, 55),
    "exporting": (kill_operations.export, prepare_exporting, compare_exports, 55),
    "model": (kill_operations.export_model, prepare_model, compare_exports, 6),  # each takes seconds
}
if find_spec("onnxscript") is None:
    del OPERATIONS["model"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_kills_at_random_moments(tmp_path, name):
    operation, prepare, compare, kills = OPERATIONS[name]
    prepare(tmp_path / "inputs")
    acknowledged: dict[Path, set[str]] = {}

    def keeps_its_word(folder: Path) -> None:
        """Every video whose commit has returned is in the index, and is never done again."""
        lines = (folder / "notes").read_text().splitlines(keepends=True)
        marks = [line.removeprefix("acknowledged ") for line in lines if line.endswith("]\n")]
        now = {video_id for mark in marks for video_id in json.loads(mark)}
        before = acknowledged.setdefault(folder, set())
        assert not now & before
        before |= now
        assert not before or before <= contents(VideoIndex.open(folder / "my.index")).keys()

    def is_whole(folder: Path) -> None:
        """Of an exported model, all files or no folder."""
        if (folder / "out").exists():
            assert files(folder / "out") == files(tmp_path / "whole" / "out")

    check = {"index": keeps_its_word, "model": is_whole}.get(name, lambda folder: None)
    kill_at_random(operation, compare, check, tmp_path, kills, seed=len(name))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_disk_is_said_and_the_next_call_goes_on(tmp_path, name):
    """On file systems in memory that are too small by this much or that, where this process may mount them."""
    operation, prepare, compare, _ = OPERATIONS[name]
    prepare(tmp_path / "inputs")
    (tmp_path / "whole").mkdir()
    finish(operation, tmp_path / "whole")
    need = sum(map(len, files(tmp_path / "whole").values()))
    for share in (0.3, 0.9) if name == "model" else (0.02, 0.3, 0.6, 0.9):
        disk = tmp_path / f"disk{share}"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={max(int(share * need), 4096)}", "tmpfs", disk]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"may not mount a file system: {mounted.stderr.strip()}")
        try:
            error = attempt(operation, disk)
            assert isinstance(error, OSError), error
            assert "no space left" in str(error).lower(), error
            subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
            finish(operation, disk)
            compare(disk, tmp_path / "whole")
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
