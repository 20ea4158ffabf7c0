"""What is seen and what is said: how often frames, words and both fused find the right video.

    python benchmarks/words.py runs/shapes/data hub/models/glccl-shapes

The library is generated: the test videos of the shapes benchmark, each with a subtitle file in invented words. Of 400
names every video says four, in two cues, so that a name alone fits several videos. What is said also misleads: a
tenth of the videos say the caption of another one. Queries, 200 of each kind:

- caption: what is seen, and what a search without subtitles would be asked.
- names: two names that the video says in one cue.
- caption and a name: a query beside `--words`.

Prints a table and writes benchmarks/results/words_<hardware>.csv. `seconds` is the mean time of a query of this row,
encoding included, on a machine that other work may share.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import errors

import numpy as np
import torch
from table import show, write_csv

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.search import VideoIndex

QUERIES, NAMES, DEPTH = 200, 400, 10


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the shapes benchmark")
    parser.add_argument("checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset: Any = load_benchmark("shapes", data_dir=arguments.data, split="test")
    captions = list(dataset["caption"])
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprtvz" for b in "aeiou"]
    names = sorted({"".join(rng.choice(syllables, 4)) for _ in range(2 * NAMES)})[:NAMES]
    spoken = [rng.choice(names, 4, replace=False) for _ in captions]
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for row, own in zip(dataset, spoken, strict=True):
            source = Path(row["video"]["path"])
            (videos / f"{row['video_id']}{source.suffix}").symlink_to(source.absolute())
            cues = [f"today {own[0]} meets {own[1]}", f"and {own[2]} follows {own[3]}"]
            if rng.random() < 0.1:
                cues.append(captions[rng.integers(len(captions))])
            text = [f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\n{cue}\n" for i, cue in enumerate(cues)]
            (videos / f"{row['video_id']}.srt").write_text("\n".join(text))
        index = VideoIndex.create(Path(folder) / "my.index", *load_checkpoint(arguments.checkpoint))
        print(index.update(videos))
        targets = rng.choice(len(captions), QUERIES, replace=False)
        ids = [Path(row["video_id"]).stem for row in dataset]
        asked: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "caption": [(captions[target], {}) for target in targets],
            "names": [(f"{spoken[target][0]} and {spoken[target][1]}", {}) for target in targets],
            "caption and a name": [(captions[target], {"words": str(spoken[target][0])}) for target in targets],
        }
        rows = []
        for kind, queries in asked.items():
            for by in ("frames", "words", "fused"):
                ranks, started = [], time.perf_counter()
                for target, (query, given) in zip(targets, queries, strict=True):
                    if by == "frames":
                        results = index.search(query, DEPTH, no_words=True)
                    elif by == "words":
                        results = index.search(None, DEPTH, **(given or {"words": query}))
                    else:
                        results = index.search(query, DEPTH, **given)
                    found = [Path(result.path).stem for result in results]
                    ranks.append(found.index(ids[target]) if ids[target] in found else DEPTH)
                row = {"query": kind, "found by": by}
                row |= {f"R@{k}": f"{100 * np.mean(np.array(ranks) < k):.1f}" for k in (1, 2, DEPTH)}
                row["seconds"] = f"{(time.perf_counter() - started) / QUERIES:.3f}"
                show(row, not rows, wide=("query",))
                rows.append(row)
    write_csv(rows, "words")


if __name__ == "__main__":
    main()
