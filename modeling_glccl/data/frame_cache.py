"""Decoded frames kept on disk: videos are decoded once, for all later epochs and runs."""

import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from datasets.features.features import register_feature
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..processing_glccl import GLCCLProcessor
from ..video_decoding_glccl import VideoDecodeError
from ..video_processing_glccl import GLCCLVideoProcessor

# A change of what a cached frame is, or of how it is stored, needs a new version, or old files pass for current ones.
VERSION = 1
# 4:4:4, as CLIP sees small frames, whose colours 4:2:0 would halve once more.
IMAGE_FORMATS = {
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    "raw": {"format": "PPM"},
}
# An interrupted build loses at most this many videos of each process.
VIDEOS_PER_FILE = 32
_COLUMNS = Features({"key": Value("string"), "frames": List(Value("binary"))})


@dataclass
class CachedFrames:
    """Feature of `datasets`: a place in a frame cache, read as the frames that are kept there.

    A row is decoded when it is read to a list of PIL images, `size` pixels square, which the video processor turns
    into the same tensors as the video file. It samples, resizes and crops such images to themselves.

    Args:
        folder: of the cache.
        size: of the video processor. Around smaller crops there is a black frame, which the processor cuts off.
    """

    folder: str
    size: int
    dtype: ClassVar[str] = "list"
    pa_type: ClassVar[Any] = pa.struct({"file": pa.string(), "row": pa.int32()})
    _type: str = field(default="CachedFrames", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """The type in which Arrow stores it."""
        return self.pa_type

    def decode_example(self, value: dict[str, Any], token_per_repo_id: Any = None) -> list[Image.Image]:
        """Reads the frames of one video."""
        encoded = _open(os.path.join(self.folder, value["file"]))[value["row"]]["frames"]
        images = [Image.open(io.BytesIO(content)) for content in encoded]
        margin = round((self.size - images[0].width) / 2)  # as the processor's centre crop rounds it
        if margin or images[0].width != self.size:
            box = (-margin, -margin, self.size - margin, self.size - margin)
            images = [image.crop(box) for image in images]
        return images


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*register_feature", category=UserWarning)
    register_feature(CachedFrames, "CachedFrames")


def with_frame_cache(
    dataset: Dataset,
    processor: GLCCLProcessor | GLCCLVideoProcessor,
    cache_dir: str | Path,
    format: Literal["jpeg", "raw"] = "jpeg",
    num_proc: int = 1,
    progress: bool = True,
) -> Dataset:
    """The dataset with the sampled, resized and cropped frames of its videos in place of the videos.

    Videos that `cache_dir` does not hold yet are decoded first, each once, however many rows it has; a file that
    changed (path, size, modification time) is a new video, and so is another window (`start`, `end`) of it. Other
    settings of the processor that change pixels (`size`, `crop_size`, `max_frames`, `sampling`) get a folder of their
    own; normalisation and padding are left to the processor and may change. Splits and runs share a cache, and may
    fill it at the same time. An interrupted call leaves what it has decoded, and the next goes on from there. Nothing
    is removed: of a changed file the old frames stay until the folder is deleted.

    Args:
        dataset: column `video` (path, bytes, or `{"path", "bytes"}`) and, where only parts count, `start` and `end`
            in seconds. Of embedded bytes the SHA-256 hash decides whether they changed.
        processor: the one that will turn rows into batches: `processor(videos=[row["video"], ...])` is what it would
            be from the video files, as long as the call overrides no setting.
        cache_dir: folder for caches; made if it does not exist.
        format: "jpeg" (quality 95, 4:4:4; on 22 clips of real video pixels were off by 1 of 255 levels on average and
            by 19 at most, and 12 frames of 224 x 224 pixels took 0.24 MB a video) or "raw" (pixels equal those of the
            video file bit by bit; `max_frames * 3 * crop_size ** 2` bytes, 1.8 MB a video).
        num_proc: processes that decode; 1 decodes in this one.
        progress: show a progress bar while decoding.

    Returns:
        The dataset, whose column `video` reads as lists of PIL images, without the columns `start` and `end`.

    Raises:
        VideoDecodeError: videos that cannot be decoded, all of them named, after the others have been cached.
        FileNotFoundError: a path without a file.
        TypeError: values of `video` that are neither paths nor bytes.
        ValueError: an unknown format, no column `video`.

    Example:

    ```python
    train = load_benchmark("shapes", data_dir="runs/data", split="train")
    train = with_frame_cache(train, processor, "runs/frames", num_proc=4)
    batch = processor(videos=train[:8]["video"])
    ```
    """
    if format not in IMAGE_FORMATS:
        raise ValueError(f"format={format!r} is unknown; use {' or '.join(map(repr, IMAGE_FORMATS))}")
    if "video" not in dataset.column_names:
        raise ValueError(f"the dataset has no column 'video'; its columns are {dataset.column_names}")
    video_processor = getattr(processor, "video_processor", processor)
    folder = _prepare_folder(Path(cache_dir).absolute(), video_processor, format)
    columns = [name for name in ("video", "start", "end") if name in dataset.column_names]
    clips = dataset.with_format(None).select_columns(columns)
    keys = [_key(**row) for row in clips]

    places = _find(folder)
    if not places.keys() >= set(keys):
        with FileLock(folder / ".lock"):
            for partial in folder.glob("*.partial"):
                partial.unlink()  # its writer was killed, or it would hold the lock
            _fill(folder, clips, keys, _pixel_processor(video_processor), format, num_proc, progress)
        places = _find(folder)
    frames = CachedFrames(str(folder), video_processor.size)
    videos, others = [places[key] for key in keys], dataset.remove_columns(columns)
    if not others.column_names:  # then it has no rows either
        return Dataset.from_dict({"video": videos}, Features({"video": frames}))
    return others.add_column("video", videos, feature=frames)


def _prepare_folder(cache_dir: Path, processor: GLCCLVideoProcessor, format: str) -> Path:
    """The folder for everything that changes pixels, which lie in it in `settings.json`."""
    names = ("size", "crop_size", "max_frames", "sampling")
    settings = {name: getattr(processor, name) for name in names}
    settings |= {"image": IMAGE_FORMATS[format], "version": VERSION}
    content = json.dumps(settings, indent=2)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    folder = cache_dir / f"{format}-{processor.max_frames}x{processor.crop_size}px-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(content + "\n", encoding="utf-8")
    return folder


def _pixel_processor(processor: GLCCLVideoProcessor) -> GLCCLVideoProcessor:
    """The same frames as pixels in 0..1, not normalised."""
    return GLCCLVideoProcessor(
        processor.size,
        processor.crop_size,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        max_frames=processor.max_frames,
        sampling=processor.sampling,
    )


def _key(video: Any, start: float | None = None, end: float | None = None) -> str:
    """What tells a clip from others and from former content of its file."""
    path, content = (video.get("path"), video.get("bytes")) if isinstance(video, dict) else (video, None)
    if isinstance(video, bytes):
        path, content = None, video
    if content is not None:
        source = f"sha256={hashlib.sha256(content).hexdigest()}"
    elif isinstance(path, str):
        status = os.stat(path)
        source = f"{os.path.abspath(path)} size={status.st_size} mtime_ns={status.st_mtime_ns}"
    else:
        raise TypeError(f"column 'video' must hold paths or bytes, got {type(video).__name__}: {video!r:.100}")
    return f"{source} start={start} end={end}"


def _find(folder: Path) -> dict[str, dict[str, Any]]:
    """Key -> place of every clip in the cache."""
    return {
        key: {"file": path.name, "row": row}
        for path in sorted(folder.glob("*.arrow"))
        for row, key in enumerate(_open(str(path)).data.column("key").to_pylist())
    }


@cache
def _open(path: str) -> Dataset:
    return Dataset.from_file(path)  # memory-mapped; a file is never changed once it has its name


def _fill(
    folder: Path,
    clips: Dataset,
    keys: Sequence[str],
    processor: GLCCLVideoProcessor,
    format: str,
    num_proc: int,
    progress: bool,
) -> None:
    """Decodes the clips that are not in the cache yet."""
    known = _find(folder)
    missing = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
    missing = sorted(missing.items(), key=lambda item: item[1])
    size = min(VIDEOS_PER_FILE, math.ceil(len(missing) / (4 * num_proc)) or 1)  # a few parts for each process
    parts = [missing[start : start + size] for start in range(0, len(missing), size)]
    writer = _Writer(folder, clips, parts, processor, format)
    errors = []
    # torch's loader as the pool: its processes use one thread each and end when this one is killed.
    loader = DataLoader(writer, batch_size=None, num_workers=num_proc if num_proc > 1 else 0)
    with tqdm(total=len(missing), desc="caching frames", unit="video", disable=not progress or not missing) as bar:
        for part, part_errors in zip(parts, loader, strict=True):
            errors += part_errors
            bar.update(len(part))
    if errors:
        shown = "\n".join([*errors[:20], *(["..."] if len(errors) > 20 else [])])
        raise VideoDecodeError(
            f"{len(errors)} of {len(missing)} new videos cannot be decoded (the others are cached now); "
            f"repair them or leave their rows out:\n{shown}"
        )


@dataclass
class _Writer(torch.utils.data.Dataset):
    """Item i decodes part i of the missing clips and writes its file; its value is the list of errors."""

    folder: Path
    clips: Dataset
    parts: list[list[tuple[str, int]]]
    processor: GLCCLVideoProcessor
    format: str

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> list[str]:
        partial, written, errors = self.folder / f"{index}.partial", [], []
        with ArrowWriter(features=_COLUMNS, path=str(partial), writer_batch_size=1) as writer:
            for key, row in self.parts[index]:
                try:
                    writer.write({"key": key, "frames": self._frames(**self.clips[row])})
                    written.append(key)
                except ValueError as error:
                    errors.append(f"row {row}: {str(error).removeprefix('videos[0]: ')}")
            writer.finalize()
        if not written:
            partial.unlink()
            return errors
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        # Named by its content, so that a name never comes to stand for other frames.
        partial.replace(self.folder / f"{hashlib.sha256(' '.join(written).encode()).hexdigest()[:16]}.arrow")
        return errors

    def _frames(self, video: Any, start: float | None = None, end: float | None = None) -> list[bytes]:
        """One clip's frames as encoded images."""
        pixels = self.processor(video, start=start, end=end)["pixel_values_videos"][0]
        encoded = []
        for frame in (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy():
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, **IMAGE_FORMATS[self.format])
            encoded.append(buffer.getvalue())
        return encoded


__all__ = ["CachedFrames", "with_frame_cache"]
