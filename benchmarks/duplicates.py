"""Which copies of videos `glccl duplicates` groups, and which videos that only begin alike it leaves apart.

    python benchmarks/duplicates.py runs/shapes/data hub/models/glccl-shapes

Copies of the first videos of the shapes benchmark's test split are written with the changes named in the rows and
indexed beside the originals; "start" rows are pairs of different videos that were given the same start. Twins, which
the benchmark makes of the same pictures, are left out of the pairs of different videos, and have their own row.
The shares are of pairs that reach the default threshold, and whose pooled vectors are alike enough to be compared.

Prints a table and writes benchmarks/results/duplicates_<hardware>.csv.
"""

import argparse
import inspect
import tempfile
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import errors

import av
import numpy as np
from table import show, write_csv

from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.data import load_benchmark
from modeling_glccl.search import VideoIndex
from modeling_glccl.search.candidates import Snapshot
from modeling_glccl.search.duplicates import MARGIN, _frames, frames_similarity
from modeling_glccl.video_decoding_glccl import decode_video

VIDEOS = 30
THRESHOLD = inspect.signature(VideoIndex.duplicates).parameters["threshold"].default


def first(frames: np.ndarray, share: float, image: np.ndarray) -> np.ndarray:
    """With a start that shows one image, so much of the result."""
    return np.concatenate([[image] * round(len(frames) * share / (1 - share)), frames])


# Row -> what is written instead of the frames [N, H, W, 3], and how.
Change = tuple[Callable[[np.ndarray], np.ndarray], dict]
COPIES: dict[str, Change] = {
    "re-encoded (crf 38)": (lambda frames: frames, {"crf": "38"}),
    "96x96 instead of 64x64": (lambda frames: frames, {"side": 96}),
    "48x48 instead of 64x64": (lambda frames: frames, {"side": 48}),
    "first 10 % cut off": (lambda frames: frames[len(frames) // 10 :], {}),
    "first 20 % cut off": (lambda frames: frames[len(frames) // 5 :], {}),
    "last 20 % cut off": (lambda frames: frames[: -len(frames) // 5], {}),
    "first 30 % cut off": (lambda frames: frames[3 * len(frames) // 10 :], {}),
    "first half cut off": (lambda frames: frames[len(frames) // 2 :], {}),
}
STARTS = {f"{kind} start, {share:.0%}": (kind, share) for kind in ("black", "still") for share in (0.2, 0.33, 0.5)}


def write(path: Path, frames: np.ndarray, rate: Fraction, crf: str = "23", side: int = 64) -> None:
    """Writes frames as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": crf})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode(None))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the shapes benchmark")
    parser.add_argument("checkpoint")
    arguments = parser.parse_args()
    dataset = load_benchmark("shapes", data_dir=arguments.data, split="test", with_videos=False)
    twin_groups = dict(zip(dataset["video_id"], dataset["twin_group"], strict=True))
    paths = {path.stem: path for path in sorted(arguments.data.rglob("test/*.mp4"))}
    names = [name for name in twin_groups if name in paths][:VIDEOS]
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder) / "videos"
        files: dict[tuple[str, str], Path] = {}
        still = decode_video(paths[names[-1]], 1).frames[0]
        for name in names:
            video = decode_video(paths[name], 10_000)
            rate = Fraction(len(video.frames) / video.duration).limit_denominator(1001)
            changes: dict[str, Change] = {"original": (lambda frames: frames, {}), **COPIES}
            for row, (kind, share) in STARTS.items():
                image = np.zeros_like(still) if kind == "black" else still
                changes[row] = (lambda frames, share=share, image=image: first(frames, share, image), {})
            for number, (row, (change, options)) in enumerate(changes.items()):
                files[row, name] = copies / str(number) / f"{name}.mp4"
                files[row, name].parent.mkdir(parents=True, exist_ok=True)
                write(files[row, name], change(video.frames), rate, **options)
        index = VideoIndex.create(Path(folder) / "my.index", *load_checkpoint(arguments.checkpoint))
        index.update(copies)
        snapshot = Snapshot(index._store.open_clips(), index._store.about["width"])
        ids = snapshot.take(np.arange(len(snapshot.row_ids)), ["video_id"])["video_id"].to_pylist()
        clips_of = {video: np.array([video]) for video in range(len(ids))}
        features = _frames(snapshot, clips_of, snapshot.width)
    place = {video_id: position for position, video_id in enumerate(ids)}  # every video is one clip
    video_of = {key: place[str(path)] for key, path in files.items()}
    different = [(a, b) for a, b in combinations(names, 2) if twin_groups[a] != twin_groups[b]]
    twins = [(a, b) for a, b in combinations(names, 2) if twin_groups[a] == twin_groups[b]]
    pairs = {row: [(("original", name), (row, name)) for name in names] for row in COPIES}
    for row in ("original", *STARTS):
        pairs[f"different videos, {row}"] = [((row, a), (row, b)) for a, b in different]
    pairs["twins"] = [(("original", a), ("original", b)) for a, b in twins]
    rows = []
    for row, keys in pairs.items():
        found = [(video_of[a], video_of[b]) for a, b in keys]
        scores = np.array([frames_similarity(*features[a], *features[b]) for a, b in found])
        vectors = snapshot.vectors()[1].float()
        pooled = np.array([float(vectors[a] @ vectors[b]) for a, b in found])
        result = {
            "pairs": row,
            "number": len(found),
            "lowest": f"{scores.min():.3f}",
            "median": f"{np.median(scores):.3f}",
            "highest": f"{scores.max():.3f}",
            "grouped_%": f"{100 * (scores >= THRESHOLD).mean():.1f}",
            "proposed_%": f"{100 * (pooled >= THRESHOLD - MARGIN).mean():.1f}",
        }
        show(result, not rows, wide=("pairs",))
        rows.append(result)
    write_csv(rows, "duplicates")


if __name__ == "__main__":
    main()
