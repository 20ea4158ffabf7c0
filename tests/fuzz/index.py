"""Folders of indexes: any file changed, cut, emptied or removed."""

import math
import os
import random
import shutil
import warnings
from pathlib import Path

import torch
from checkpoints import save_tiny_checkpoint
from search_data import CAPTIONS
from videos import write_video

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.search import VideoIndex

from .harness import attempt
from .mutate import mutate_bytes, mutate_json

LOADED = {}


def setup(seeds: Path) -> None:
    save_tiny_checkpoint(seeds / "checkpoint", CAPTIONS)
    model, processor = load_checkpoint(seeds / "checkpoint")
    index = VideoIndex.create(seeds / "x.index", model, processor)
    (seeds / "videos").mkdir()
    for number in range(6):
        path = write_video(seeds / "videos" / f"v{number}.mp4", 5 + number, fps=5)
        if number % 2:
            index.update(seeds / "videos", progress=False)
    (seeds / "videos" / "broken.mp4").write_bytes(b"no video")
    index.update(seeds / "videos", progress=False)
    index.remove([str(path)])
    write_video(seeds / "new.mp4", 9, fps=5)


def warm(seeds: Path) -> None:
    torch.set_num_threads(1)
    LOADED["model"], LOADED["processor"] = load_checkpoint(seeds / "checkpoint")


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    warnings.simplefilter("ignore")
    folder = Path(shutil.copytree(seeds / "x.index", work / "x.index"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    # Their names are random, but not the order in which they were written.
    files.sort(key=lambda path: (str(path.parent), (seeds / path.relative_to(work)).stat().st_mtime_ns))
    path = rng.choice(files)
    content, other = path.read_bytes(), rng.choice(files).read_bytes()
    kind = rng.choice(("bytes", "bytes", "bytes", "bytes", "cut", "empty", "remove", "swap", "folder", "about"))
    if kind == "bytes":
        path.write_bytes(mutate_bytes(rng, content, other))
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content) + 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "swap":
        path.write_bytes(other)
    elif kind == "about":
        import lancedb
        import pyarrow

        connection = lancedb.connect(str(folder))
        text = mutate_json(rng, connection.open_table("about").to_arrow()["json"][0].as_py().encode())
        rows = [text.decode(errors="replace")] * rng.choice((1, 1, 1, 0, 2))
        connection.create_table(
            "about", pyarrow.table({"json": pyarrow.array(rows, pyarrow.string())}), mode="overwrite"
        )
    else:
        gone = path if kind == "remove" else rng.choice(sorted({path.parent for path in files} - {folder}))
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    index = attempt(lambda: VideoIndex.open(folder, **LOADED), str(folder))
    steps = [lambda: index.info(), lambda: index.errors(), lambda: _search(index), lambda: _search(index)]
    rng.shuffle(steps)
    if rng.random() < 0.3:
        steps.insert(0, lambda: index.add(seeds / "new.mp4", progress=False))
    if rng.random() < 0.1:
        steps.insert(0, lambda: index._store.compact(growing=True))
    for step in steps:
        attempt(step, str(folder))


def _search(index: VideoIndex) -> None:
    results = index.search(CAPTIONS[0], k=20, moments=True)
    assert len({result.video_id for result in results}) == len(results), "a video twice"
    scores = [result.score for result in results]
    assert all(map(math.isfinite, scores)), scores
    assert scores == sorted(scores, reverse=True), scores
    for result in results:
        assert os.path.basename(result.path), result
        assert result.moment, result
        start, end, peak = result.moment
        assert start <= peak <= end, result.moment
