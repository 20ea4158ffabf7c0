"""The shapes benchmark: real video files, rendered on first use instead of downloaded (docs/data.md)."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from PIL import Image
from tqdm.auto import tqdm

from ...atomic import write_whole
from .render import encode_video, render_frames, render_still
from .sampler import SPLITS, sample_clips, sample_still
from .world import WORLDS, Event, relevant_frames

# A change of what is drawn or written needs a new version, or folders rendered before it pass for current ones.
VERSION = datasets.Version("1.1.0")

# Apart from the sampler's stream 0, so that no two random choices share a generator.
_VIDEO_STREAM, _STILL_STREAM = 1, 2

_TEXT, _SECONDS, _INDEX = map(datasets.Value, ("string", "float32", "int32"))
_EVENT = dict.fromkeys(("colour", "shape", "size", "action"), _TEXT) | {"start": _SECONDS, "end": _SECONDS}
_COLUMNS = {"video_id": _TEXT, "caption": _TEXT, "start": _SECONDS, "end": _SECONDS, "scene": _TEXT}
_COLUMNS |= {"events": datasets.List(_EVENT), "caption_events": datasets.List(_INDEX), "twin_group": _INDEX}
_STILL_COLUMNS = datasets.Features({"image": datasets.Image(), "phrase": _TEXT})
_STILLS_PER_FILE = 1000


@dataclass(frozen=True)
class ShapesConfig:
    """Options of the shapes benchmark; the first rows of a split do not depend on how many follow."""

    num_train: int = 3000
    num_validation: int = 304
    num_test: int = 400
    num_stills: int = 40_000  # single frames
    seed: int = 0  # another gives other videos; the splits' event combinations stay disjoint across seeds
    image_size: int = 64  # side of the square frames in pixels, a multiple of 16
    # 0, the benchmark; 1 and 2, those of the cross-domain test (docs/data.md): 2 has a test split alone, and shows the
    # pairs of colour and shape that 1 never does.
    world: int = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}={value!r} must be a whole number, not negative")
        if self.image_size not in range(16, 2049, 16):
            raise ValueError(f"image_size={self.image_size} must be a multiple of 16, at most 2048")
        if self.world >= len(WORLDS):
            raise ValueError(f"world={self.world} must be 0, 1 or 2")


def load(
    data_dir: str | Path | None = None,
    repo_id: str | None = None,
    split: str | None = "test",
    missing: str = "error",
    with_videos: bool = True,
    *,
    config_name: str = "videos",
    num_proc: int | None = None,
    **config: int,
) -> datasets.Dataset | datasets.DatasetDict:
    """Loads the shapes benchmark, rendering whatever is not there yet; see [`modeling_glccl.data.load_benchmark`].

    Args:
        data_dir: where to keep videos and tables; defaults to the cache of `datasets`.
        repo_id, missing: not supported, and without effect: what is missing is rendered.
        split: "train" for stills; None for all. Only its videos are rendered.
        config_name: "videos", or "stills" for single frames (`image`) with phrases (`phrase`).
        **config: options of [`ShapesConfig`].

    Raises:
        ValueError: `repo_id` given, unknown split or option.
        OSError: a file could not be written. What is there stays; the next call goes on from there.
    """
    if repo_id is not None:
        raise ValueError(f"repo_id={repo_id!r}: the shapes benchmark is rendered, not downloaded; leave repo_id out")
    known = [field.name for field in fields(ShapesConfig)]
    if unknown := sorted(set(config) - set(known)):
        raise ValueError(f"unknown option {unknown[0]!r} of the shapes benchmark; it has {', '.join(known)}")
    options, stills = ShapesConfig(**config), config_name == "stills"
    if stills and not options.num_stills:
        raise ValueError("num_stills=0 must be 1 or more")
    if stills and options.world == 2:
        raise ValueError("world=2 is there to be tested: it has no stills")
    sizes = {"train": options.num_stills} if stills else {name: getattr(options, f"num_{name}") for name in SPLITS}
    splits = [name for name in SPLITS if sizes.get(name) and (options.world < 2 or name == "test")]
    if split is not None and split not in splits:
        raise ValueError(f"split={split!r} must be one of {', '.join(splits)}, or None for all")
    root = Path(data_dir or datasets.config.HF_DATASETS_CACHE).absolute() / "shapes"
    world = f"-world{options.world}" * bool(options.world)
    folder = root / f"v{VERSION}-seed{options.seed}-{options.image_size}px{world}"
    if stills:
        firsts = range(0, options.num_stills, _STILLS_PER_FILE)
        parts = [range(first, min(first + _STILLS_PER_FILE, options.num_stills)) for first in firsts]
        files = {folder / "stills" / f"{part.start:06d}-{part.stop:06d}.arrow": part for part in parts}
        jobs = [(path, part) for path, part in files.items() if not path.exists()]
        done = options.num_stills - sum(len(part) for _, part in jobs)
        _render_all(partial(_render_stills, options), jobs, done, options.num_stills, "still", num_proc)
        dataset = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
        return dataset if split else datasets.DatasetDict({"train": dataset})

    loaded = datasets.DatasetDict()
    for name in splits if split is None else [split]:
        values = {"split": name, "count": sizes[name], "seed": options.seed, "world": options.world}
        values["folder"] = str(folder / name) if with_videos else None
        try:
            dataset = datasets.Dataset.from_generator(
                _rows,
                datasets.Features(({"video": datasets.Video(decode=False)} if with_videos else {}) | _COLUMNS),
                str(root / "tables"),
                gen_kwargs=values,
                split=datasets.NamedSplit(name),
                fingerprint=Hasher.hash([str(VERSION), values]),
            )
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
        dataset.info.description = (
            "Short rendered videos of successive events and captions that describe some of them."
        )
        dataset.info.license = "apache-2.0"
        loaded[name] = dataset
    if with_videos:  # those that are not there yet, of all splits, with one progress bar
        rows = [
            part[number]
            for part in loaded.values()
            for number, video in enumerate(part["video"])
            if not Path(video["path"]).exists()
        ]
        total = sum(map(len, loaded.values()))
        _render_all(partial(_render_video, options), rows, total - len(rows), total, "video", num_proc)
    return loaded if split is None else loaded[split]


def _rows(split: str, count: int, seed: int, world: int, folder: str | None) -> Iterator[dict[str, Any]]:
    """The rows of a split, whose videos lie in `folder`, or have none."""
    for clip in sample_clips(split, count, seed, world):
        row = vars(clip) | {"events": [vars(event) for event in clip.events], "start": None, "end": None}
        del row["meaning"]
        if folder is not None:
            row["video"] = str(Path(folder, f"{clip.video_id}.mp4"))
        yield row


def _render_all(
    render: Callable[[Any], int], jobs: Sequence[Any], done: int, total: int, unit: str, num_proc: int | None
) -> None:
    """Does the jobs, in several processes if asked to, with one progress bar; `render` says how many items it made."""
    with (
        tqdm(total=total, initial=done, desc="rendering", unit=unit, disable=not jobs) as bar,
        ProcessPoolExecutor(num_proc) if num_proc and num_proc > 1 else nullcontext() as pool,
    ):
        for made in pool.map(render, jobs) if pool else map(render, jobs):
            bar.update(made)


def _render_stills(options: ShapesConfig, job: tuple[Path, range]) -> int:
    """Writes a file of stills, which is whole or not there: an interrupted rendering goes on with the next."""
    path, indices = job
    table = io.BytesIO()
    with ArrowWriter(features=_STILL_COLUMNS, stream=table) as writer:
        for index in indices:
            still = sample_still(index, options.seed, options.world)
            rng = np.random.default_rng([_STILL_STREAM, options.seed, index])
            image = render_still(rng, still, options.image_size)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "jpeg", quality=90)
            writer.write({"image": {"path": None, "bytes": buffer.getvalue()}, "phrase": still.phrase})
        writer.finalize(close_stream=False)
    _write(path, table.getvalue())
    return len(indices)


def _render_video(options: ShapesConfig, row: Mapping[str, Any]) -> int:
    """Writes the video of a row; its times are multiples of 1/8 s, which float32 holds exactly."""
    split, number = row["video_id"].split("_")
    world, events = options.world, [Event(**event) for event in row["events"]]
    stream = [_VIDEO_STREAM, options.seed, SPLITS.index(split), int(number), *[world] * bool(world)]
    frames = render_frames(np.random.default_rng(stream), row["scene"], events, options.image_size, WORLDS[world])
    _write(Path(row["video"]["path"]), encode_video(frames))
    return 1


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}): free some space or choose another data_dir"
        ) from error


__all__ = ["VERSION", "ShapesConfig", "load", "relevant_frames", "sample_clips"]
