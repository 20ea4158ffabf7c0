"""Decoded frames kept on disk: videos are decoded once, for all later epochs and runs."""

import hashlib
import io
import json
import os
import warnings
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pyarrow as pa
from datasets import Dataset, Features
from datasets.features.features import register_feature
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from ..atomic import write_whole
from ..processing_glccl import GLCCLProcessor
from ..video_processing_glccl import GLCCLVideoProcessor, GLCCLVideoProcessorKwargs
from ..video_streams_glccl import VideoDecodeError
from .pool import map_videos

# A change of what a cached frame is, or of how it is stored, needs a new version, or old files pass for current ones.
VERSION = 2
# 4:4:4, as CLIP sees small frames, whose colours 4:2:0 would halve once more.
IMAGE_FORMATS = {
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    "raw": {"format": "PPM"},
}
# Settings of the processor that change no pixel before normalisation.
_LATER = {"image_mean", "image_std", "pad_to_max_frames", "num_threads"}


@dataclass
class CachedFrames:
    """Feature of `datasets`: path of a picture with the square frames of a video below each other.

    Reads as a list of PIL images of `size` pixels, which the video processor, whose `size` that is, resizes and crops
    to themselves. `List(Image())` would store the frames of a video again for each of its captions.
    """

    size: int
    dtype: ClassVar[str] = "list"
    pa_type: ClassVar[Any] = pa.string()
    _type: str = field(default="CachedFrames", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """The type in which Arrow stores it."""
        return self.pa_type

    def decode_example(self, value: str, token_per_repo_id: Any = None) -> list[Image.Image]:
        """Reads the frames of one video; around smaller crops is black, which the processor cuts off again."""
        with Image.open(value) as column:
            margin = round((self.size - column.width) / 2)  # as the processor's centre crop rounds it
            tops = range(-margin, column.height - margin, column.width)
            return [column.crop((-margin, top, self.size - margin, top + self.size)) for top in tops]


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
    process_index: int = 0,
    num_processes: int = 1,
) -> Dataset:
    """The dataset with the sampled, resized and cropped frames of its videos in place of the videos.

    Videos that `cache_dir` does not hold yet are decoded first, each once. A file that changed (path, size,
    modification time) is a new video, and so is another window of it. Settings of the processor that change pixels get
    a folder of their own; normalisation and padding are left to it. Splits and runs share a cache, and may fill it at
    the same time; an interrupted call is taken up by the next. Nothing is removed. No global random generator is used.
    `datasets.map` would begin anew after an interruption, and for other captions of the same videos.

    Args:
        dataset: column `video` (path, bytes, or `{"path", "bytes"}`) and, where only parts count, `start` and `end`
            in seconds. Of embedded bytes the SHA-256 hash decides whether they changed.
        processor: the one that will turn rows into batches: `processor(videos=[row["video"], ...])` is what it would
            be from the video files, as long as the call overrides no setting.
        format: "jpeg" (on 22 clips of real video pixels were off by 1 of 255 levels on average and by 19 at most, and
            12 frames of 224 x 224 pixels took 0.24 MB) or "raw" (the pixels of the video file bit by bit; 1.8 MB).
        num_proc: processes that decode, for a script with `if __name__ == "__main__"`; 1 decodes in this one.
        process_index, num_processes: of a distributed run that calls this in every process, with one `cache_dir` for
            all: each begins with its own part, waits for those that others work on, and does what they left.

    Returns:
        The dataset, whose column `video` reads as lists of PIL images, without the columns `start` and `end`.

    Raises:
        VideoDecodeError: videos that cannot be decoded, all of them named, after the others have been cached.
        FileNotFoundError: a path without a file.
        TypeError: values of `video` that are neither paths nor bytes.
        ValueError: an unknown format, no column `video`, more frames than a JPEG can hold.

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
    pixels = copy(processor.video_processor if isinstance(processor, GLCCLProcessor) else processor)
    if format == "jpeg" and pixels.max_frames * pixels.crop_size > 65_500:
        raise ValueError(f"{pixels.max_frames} frames of {pixels.crop_size} pixels do not fit a JPEG: format='raw'")
    pixels.image_mean, pixels.image_std, pixels.pad_to_max_frames = [0.0] * 3, [1.0] * 3, False
    settings = {
        name: getattr(pixels, name) for name in sorted(GLCCLVideoProcessorKwargs.__annotations__.keys() - _LATER)
    }
    content = json.dumps(settings | {"image": IMAGE_FORMATS[format], "version": VERSION}, indent=2).encode()
    name = f"{format}-{pixels.max_frames}x{pixels.crop_size}px-{hashlib.sha256(content).hexdigest()[:8]}"
    folder = Path(cache_dir).absolute() / name
    write_whole(folder / "settings.json", content)

    columns = [name for name in ("video", "start", "end") if name in dataset.column_names]
    clips = dataset.with_format(None).select_columns(columns)
    files = [folder / f"{_digest(**cast(dict, row))}.{format}" for row in clips]
    first_row = {file: row for row, file in reversed(list(enumerate(files)))}
    distinct, errors = sorted(first_row, key=first_row.__getitem__), []
    for part in range(process_index, process_index + num_processes):
        share = distinct[part % num_processes :: num_processes]
        if all(file.exists() for file in share):
            continue
        # Whoever comes second finds these videos cached.
        with FileLock(folder / f".{part % num_processes}-of-{num_processes}.lock"):
            missing = {f"row {first_row[file]}": file for file in share if not file.exists()}
            jobs = ((name, clips[first_row[file]], pixels, format) for name, file in missing.items())
            outcomes = map_videos(_encode, jobs, num_proc)
            bar = tqdm(outcomes, "caching frames", len(missing), unit="video", disable=not progress or not missing)
            for job, content, error, warning in bar:
                if error:
                    errors.append(error)
                else:
                    write_whole(missing[job[0]], content)
                if warning:
                    warnings.warn(warning, stacklevel=2)
        if errors:
            shown = "\n".join([*errors[:20], *(["..."] if len(errors) > 20 else [])])
            raise VideoDecodeError(
                f"{len(errors)} of {len(missing)} new videos cannot be decoded (the others are cached now); "
                f"repair them or leave their rows out:\n{shown}"
            )
    others, paths = dataset.remove_columns(columns), list(map(str, files))
    feature = cast(Any, CachedFrames(pixels.size))  # `datasets` types its own alone
    if not others.column_names:  # then it has no rows either
        return Dataset.from_dict({"video": paths}, Features({"video": feature}))
    return others.add_column("video", cast(Any, paths), feature=feature)


def _digest(video: Any, start: float | None = None, end: float | None = None) -> str:
    """What tells a clip from others and from former content of its file."""
    if not isinstance(video, dict):
        video = {"bytes" if isinstance(video, bytes) else "path": video}
    if (content := video.get("bytes")) is not None:
        source = f"sha256={hashlib.sha256(content).hexdigest()}"
    elif isinstance(path := video.get("path"), str):
        status = os.stat(path)
        source = f"{os.path.abspath(path)} size={status.st_size} mtime_ns={status.st_mtime_ns}"
    else:
        raise TypeError(f"column 'video' must hold paths or bytes, got {type(path).__name__}: {path!r:.100}")
    return hashlib.sha256(f"{source} start={start} end={end}".encode(errors="surrogateescape")).hexdigest()[:32]


def _encode(name: str, clip: dict[str, Any], processor: GLCCLVideoProcessor, format: str) -> bytes:
    """One clip's frames, below each other, as an encoded picture."""
    try:
        pixels = processor(**{"videos" if key == "video" else key: value for key, value in clip.items()})
    except VideoDecodeError as error:
        raise VideoDecodeError(f"{name}: {str(error).removeprefix('videos[0]: ')}") from error
    pixels = (pixels["pixel_values_videos"][0] * 255).round().byte().permute(0, 2, 3, 1).flatten(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, **IMAGE_FORMATS[format])
    return buffer.getvalue()


__all__ = ["CachedFrames", "with_frame_cache"]
