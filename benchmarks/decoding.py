r"""The input pipeline: decoders of twelve frames of a video, and loading with and without a frame cache, in one run.

    python benchmarks/decoding.py                  # both parts on generated clips, a few minutes on one core
    python benchmarks/decoding.py --part decoding  # or loading
    python benchmarks/decoding.py --videos FOLDER  # video files instead of generated clips

Generated clips are H.264 with B-frames, 25 frames a second, and a key frame every 12 or every 250 frames. Every
decoder runs in this process with one thread; repetitions alternate, and medians of CPU time are compared. The other
decoders are told the numbers of the frames, ours finds them itself. decord, OpenCV and torchcodec are measured where
they are installed (`pip install decord opencv-python-headless torchcodec`). Prints tables and writes
benchmarks/results/decoding_<part>_<hardware>.csv (decoding_real_... with --videos).
"""

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import errors

import av
import numpy as np
import torch
from datasets import Dataset
from table import RESULTS, show, write_csv
from torch.utils.data import DataLoader

from modeling_glccl import GLCCLVideoProcessor
from modeling_glccl.data.frame_cache import with_frame_cache
from modeling_glccl.video_decoding_glccl import decode_video, uniform_positions

FRAMES = 12
FPS = 25
SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi"}


class Clip(NamedTuple):
    """A video file, and what decoding it in order gives."""

    path: str
    pts: list[int]
    positions: list[int]  # of the frames wanted
    frames: np.ndarray  # these frames
    thumbnails: np.ndarray  # all frames, small
    key_interval: float


def generate(path: Path, seconds: float, size: tuple[int, int], key_interval: int, seed: int = 0) -> str:
    """Writes a video of two textures that slide over each other under a little noise: no two frames are alike."""
    width, height = size
    rng = np.random.default_rng(seed)

    def texture(cell: int) -> np.ndarray:
        cells = rng.integers(0, 256, (height // cell + 1, width // cell + 1, 3))
        return cells.repeat(cell, 0).repeat(cell, 1)[:height, :width]

    fine, coarse = texture(16), texture(40)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "sc_threshold": "0", "bf": "3"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = key_interval, 1
        for number in range(round(seconds * FPS)):
            image = (np.roll(fine, 2 * number, 1) + np.roll(coarse, (number, -3 * number), (0, 1))) // 2
            image = (image + rng.integers(-6, 7, (height, width, 1))).clip(0, 255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8))))
        container.mux(stream.encode(None))
    return str(path)


def decode_in_order(path: str) -> Iterator[av.VideoFrame]:
    """All frames."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        yield from container.decode(container.streams.video[0])


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3], upright."""
    return np.rot90(frame.to_ndarray(format="rgb24", threads=1), frame.rotation // 90)


def inspect(path: str) -> Clip:
    """What the decoders should find in a file."""
    pts, times, thumbnails, keys = [], [], [], 0
    for frame in decode_in_order(path):
        pts.append(frame.pts)
        times.append(frame.time)
        thumbnails.append(to_rgb(frame)[::4, ::4])
        keys += frame.key_frame
    positions = uniform_positions(np.array(times), FRAMES).tolist()
    clip = Clip(path, pts, positions, np.empty(0), np.stack(thumbnails), round(len(pts) / keys, 1))
    return clip._replace(frames=sequential(clip))


def smart_seek(clip: Clip) -> np.ndarray:
    """Ours: seeks where the index shows a key frame between here and the wanted frame."""
    return decode_video(clip.path, FRAMES).frames


def sequential(clip: Clip) -> np.ndarray:
    """PyAV: decodes up to the last wanted frame."""
    wanted, frames = set(clip.positions), {}
    for number, frame in enumerate(decode_in_order(clip.path)):
        if number in wanted:
            frames[number] = to_rgb(frame)
        if number == clip.positions[-1]:
            break
    return np.stack([frames[position] for position in clip.positions])


def always_seek(clip: Clip) -> np.ndarray:
    """PyAV: seeks to the key frame before each wanted frame."""
    frames = []
    with av.open(clip.path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for position in clip.positions:
            container.seek(clip.pts[position], stream=stream)
            frames.append(to_rgb(next(f for f in container.decode(stream) if f.pts == clip.pts[position])))
    return np.stack(frames)


def decord(clip: Clip) -> np.ndarray:
    """decord's VideoReader."""
    package = importlib.import_module("decord")
    return package.VideoReader(clip.path, ctx=package.cpu(0), num_threads=1).get_batch(clip.positions).asnumpy()


def opencv(clip: Clip) -> np.ndarray:
    """OpenCV's VideoCapture, set to each frame's number."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(clip.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    for position in clip.positions:
        capture.set(cv2.CAP_PROP_POS_FRAMES, position)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(frames)


def torchcodec(clip: Clip) -> np.ndarray:
    """torchcodec's VideoDecoder, whose default is exact seeking."""
    decoders = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(clip.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return decoder.get_frames_at(clip.positions).data.numpy()


# Name -> function and the package it needs.
DECODERS: dict[str, tuple[Callable[[Clip], np.ndarray], str]] = {
    "smart seek (ours)": (smart_seek, "av"),
    "sequential (PyAV)": (sequential, "av"),
    "always seek (PyAV)": (always_seek, "av"),
    "decord": (decord, "decord"),
    "OpenCV": (opencv, "cv2"),
    "torchcodec": (torchcodec, "torchcodec"),
}


def problem(package: str) -> str | None:
    """Why a package cannot be used; None if it can."""
    try:
        importlib.import_module(package)
    except ImportError:
        return "not installed"
    except RuntimeError as error:  # torchcodec without a system FFmpeg
        return f"cannot be used: {str(error).strip().splitlines()[0]}"


def cpu_milliseconds(functions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median CPU time of each; the repetitions alternate, so that a noisy machine hits all alike."""
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            started = time.process_time()
            function()
            milliseconds[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def compare_frames(clip: Clip, frames: np.ndarray) -> dict[str, int | str]:
    """The difference to decoding in order, and how many frames are nearer to another frame than to the wanted one."""
    if frames.shape != clip.frames.shape:
        return {"max difference": "another size", "wrong frames": ""}
    wrong = 0
    for frame, position in zip(frames[:, ::4, ::4], clip.positions, strict=True):
        distances = np.array([np.abs(frame.astype(np.int16) - other).mean() for other in clip.thumbnails])
        wrong += bool(distances[position] > distances.min())
    difference = np.abs(frames.astype(np.int16) - clip.frames).max()
    return {"max difference": int(difference), "wrong frames": wrong}


def compare_decoders(paths: list[str], repetitions: int) -> list[dict]:
    """One row per video and decoder."""
    problems = {name: problem(package) for name, (_, package) in DECODERS.items()}
    for name, why in problems.items():
        if why:
            print(f"{name}: {why}")
    rows = []
    for path in paths:
        clip = inspect(path)
        functions, found = {}, {}
        for name, (function, _) in DECODERS.items():
            if not problems[name]:
                try:
                    found[name] = compare_frames(clip, function(clip))  # warms up as well
                    functions[name] = lambda function=function, clip=clip: function(clip)
                except Exception as error:  # a foreign library failing on a file is a result
                    print(f"{name} fails on {Path(path).name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        times = cpu_milliseconds(functions, repetitions)
        ours = next(iter(times.values()))
        for name, milliseconds in times.items():
            row = {
                "clip": Path(path).stem,
                "frames": len(clip.pts),
                "key interval": clip.key_interval,
                "decoder": name,
                "CPU ms": round(milliseconds, 1),
                "ratio": round(milliseconds / ours, 2),
                "frames decoded": decode_video(path, FRAMES).decoded_frames if name == "smart seek (ours)" else "",
                **found[name],
            }
            rows.append(row)
            show(row, len(rows) == 1, narrowest=11, wide=("clip", "decoder"))
    return rows


def compare_loading(paths: list[str], repetitions: int, cache_dir: Path) -> list[dict]:
    """Shuffled batches of 224 x 224 pixels through a DataLoader in this process, from files and from caches."""
    processor = GLCCLVideoProcessor(max_frames=FRAMES)
    videos = Dataset.from_dict({"video": paths})
    datasets: dict[str, Any] = {"decoding": videos}
    builds = {"decoding": 0.0}
    for format in ("jpeg", "raw"):
        started = time.process_time()
        datasets[f"{format} cache"] = with_frame_cache(videos, processor, cache_dir, format, progress=False)
        builds[f"{format} cache"] = time.process_time() - started
    expected = processor(paths)["pixel_values_videos"]
    levels = 255 * torch.tensor(processor.image_std)[:, None, None]

    def epoch(dataset: Any) -> None:
        loader = DataLoader(dataset, 16, shuffle=True, collate_fn=lambda rows: processor([r["video"] for r in rows]))
        for _ in loader:
            pass

    times = cpu_milliseconds({name: lambda d=d: epoch(d) for name, d in datasets.items()}, repetitions)
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    rows = []
    for name, dataset in datasets.items():
        started = time.process_time()
        for index in order:
            for image in dataset[index]["video"] if dataset is not videos else ():
                image.load()
        read = (time.process_time() - started) / len(paths)
        folder = next(cache_dir.glob(f"{name.split()[0]}-*"), None)
        size = sum(p.stat().st_size for p in (folder.glob(f"*.{name.split()[0]}") if folder else map(Path, paths)))
        error = (processor([row["video"] for row in dataset])["pixel_values_videos"] - expected).abs() * levels
        row = {
            "videos from": name,
            "samples/CPU s": round(1000 * len(paths) / times[name], 1),
            "ratio": round(times["decoding"] / times[name], 2),
            "CPU ms": round(times[name] / len(paths), 1),
            "read ms": round(1000 * read, 2) if folder else "",
            "MB per video": round(size / len(paths) / 1e6, 3),
            "build ms": round(1000 * builds[name] / len(paths), 1) if folder else "",
            "max error": round(float(error.max())),
            "mean error": round(float(error.mean()), 2),
        }
        rows.append(row)
        show(row, len(rows) == 1, narrowest=11)
    return rows


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["decoding", "loading"], action="append")
    parser.add_argument("--videos", type=Path, help="folder of video files, searched without its subfolders")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in arguments.part or ["decoding", "loading"]:
            print(f"\n{part}, {FRAMES} frames of each video, one thread")
            if arguments.videos:
                paths = sorted(str(path) for path in arguments.videos.iterdir() if path.suffix in SUFFIXES)
                if not paths:
                    parser.error(f"--videos {arguments.videos} holds no {', '.join(sorted(SUFFIXES))} file")
            elif part == "decoding":
                paths = [
                    generate(folder / f"{width}x{height}_{seconds}s_key{interval}.mp4", seconds, size, interval)
                    for size in ((320, 240), (640, 360))
                    for seconds in (10, 30)
                    for interval in (12, 250)
                    for width, height in [size]
                ]
            else:
                paths = [
                    generate(folder / f"{number}.mp4", 10, (320, 240), (12, 250)[number % 2], seed=number)
                    for number in range(32)
                ]
            if part == "decoding":
                rows = compare_decoders(paths, arguments.repetitions)
            else:
                rows = compare_loading(paths, arguments.repetitions, folder / "cache")
            write_csv(rows, f"decoding_{'real_' if arguments.videos else ''}{part}", arguments.output)


if __name__ == "__main__":
    main()
