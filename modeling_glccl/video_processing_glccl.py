"""Videos as files, arrays or images -> `pixel_values_videos` and `padding_mask_videos`."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from typing import Any, TypedDict
from urllib.request import urlopen

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_processing_utils import VideoProcessorMixin

from .decoding_process_glccl import decode_in_process
from .video_decoding_glccl import DecodedVideo, FrameSampling, decode_video, decode_windows
from .video_streams_glccl import VideoDecodeError

MAX_SIZE = 4096  # pixels of a side; the largest CLIP reads 448
MAX_URL_BYTES = 2**29  # of a video behind an address: it is held in memory


class GLCCLVideoProcessorKwargs(TypedDict, total=False):
    """What `GLCCLVideoProcessor.from_pretrained` can override."""

    size: int
    crop_size: int
    keep_aspect_ratio: bool
    resample: int
    image_mean: list[float]
    image_std: list[float]
    max_frames: int
    sampling: str
    pad_to_max_frames: bool
    num_threads: int


class GLCCLVideoProcessor(VideoProcessorMixin):
    r"""
    Samples frames of videos, resizes them with PIL, crops the centre, normalises, and pads to one length.

    Args:
        size (`int`, defaults to 224): Pixels of the short side after resizing. CLIP's `{"shortest_edge": 224}` works.
        crop_size (`int`, defaults to 224): Side of the square cut from the centre; not more than `size`.
        keep_aspect_ratio (`bool`, defaults to `True`): `False` makes every frame a square of `size`, as SigLIP does.
        resample (`int`, defaults to 3): PIL's filter: 3 is bicubic, CLIP's; 2 is bilinear.
        image_mean, image_std (`list[float]`): Per RGB channel, of pixels in 0..1. Default to CLIP's.
        max_frames (`int`, defaults to 12): Most frames taken from a video.
        sampling (`str`, defaults to `"uniform"`): `"uniform"` takes the frames on screen at the centres of
            `max_frames` equal spans of time; `"release"` is the rule of the authors' release, see [`decode_video`].
        pad_to_max_frames (`bool`, defaults to `False`): Pad to exactly `max_frames`, as the authors' release does,
            rather than to the longest video of the batch.
        num_threads (`int`, defaults to 1): Threads of the video codec.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_glccl import GLCCLVideoProcessor

    >>> processor = GLCCLVideoProcessor(size=32, crop_size=32, max_frames=4)
    >>> long, short = np.zeros((9, 48, 64, 3), np.uint8), np.zeros((2, 48, 64, 3), np.uint8)
    >>> batch = processor([long, short])
    >>> batch["pixel_values_videos"].shape
    torch.Size([2, 4, 3, 32, 32])
    >>> batch["padding_mask_videos"].tolist()
    [[1, 1, 1, 1], [1, 1, 0, 0]]

    ```
    """

    model_input_names = ["pixel_values_videos", "padding_mask_videos"]  # noqa: RUF012 (transformers reads it)
    valid_kwargs = GLCCLVideoProcessorKwargs
    # For videos of strangers: reading of `time.monotonic()` until which files are decoded, in a process of their own.
    deadline: float | None = None
    do_sample_frames: bool = True

    def __init__(
        self,
        size: int | dict[str, int] = 224,
        crop_size: int | dict[str, int] = 224,
        keep_aspect_ratio: bool = True,
        resample: int = Image.Resampling.BICUBIC,
        image_mean: Sequence[float] = tuple(OPENAI_CLIP_MEAN),
        image_std: Sequence[float] = tuple(OPENAI_CLIP_STD),
        max_frames: int = 12,
        sampling: str = "uniform",
        pad_to_max_frames: bool = False,
        num_threads: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.crop_size = _pixels("size", size), _pixels("crop_size", crop_size)
        if self.crop_size > self.size:
            raise ValueError(f"crop_size={self.crop_size} must not exceed size={self.size}")
        if self.size > MAX_SIZE:
            raise ValueError(f"size={self.size} must be at most {MAX_SIZE}")
        FrameSampling(max_frames, method=sampling)  # refuses bad values
        for name, value in (("keep_aspect_ratio", keep_aspect_ratio), ("pad_to_max_frames", pad_to_max_frames)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value!r} must be true or false")
        if not isinstance(num_threads, int) or not 1 <= num_threads <= 64:
            raise ValueError(f"num_threads={num_threads!r} must be a whole number from 1 to 64")
        self.keep_aspect_ratio = keep_aspect_ratio
        self.resample = int(Image.Resampling(resample))  # refuses what PIL does not know
        values = [*image_mean, *image_std]
        numbers = all(isinstance(value, int | float) and abs(value) < math.inf for value in values)
        if len(image_mean) != 3 or len(image_std) != 3 or not numbers or min(image_std) <= 0:
            raise ValueError(f"image_mean={image_mean}, image_std={image_std}: three numbers each, the latter above 0")
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.max_frames, self.sampling = max_frames, sampling
        self.pad_to_max_frames, self.num_threads = pad_to_max_frames, num_threads

    def __call__(
        self,
        videos: Any,
        start: float | Sequence[float | None] | None = None,
        end: float | Sequence[float | None] | None = None,
        max_frames: int | None = None,
        sampling: str | None = None,
        pad_to_max_frames: bool | None = None,
        num_workers: int = 0,
        return_metadata: bool = False,
        return_tensors: str | None = "pt",
        num_frames: int | None = None,
        fps: float | None = None,
        do_sample_frames: bool | None = None,
        video_metadata: Any = None,
        allow_urls: bool = False,
    ) -> BatchFeature:
        """Prepares one video, or a list of V videos.

        Args:
            videos: each a path, bytes, binary file object or `{"path", "bytes"}` (see [`decode_video`]); or uint8
                numpy [T, H, W, 3]; or uint8 tensor [T, 3, H, W] or [T, H, W, 3]; or a list of PIL images or of such
                frames; or `{"array", "video_metadata"}`; or torchcodec's `VideoDecoder`. Frames in memory without
                `video_metadata` have no timestamps: "uniform" takes them as equally spaced, "release" as one a second.
            start, end: seconds; the clip to take, of all videos or one value for each. Of videos with timestamps.
            max_frames, sampling, pad_to_max_frames: override the processor's own for this call.
            num_workers: threads that read videos side by side; 0 reads one after the other.
            return_metadata: add `video_metadata`: for each video a dict of `timestamps` (float64 [n], seconds) and
                `duration` (seconds), both None for arrays.
            return_tensors: "pt" or "np".
            num_frames: transformers' name of `max_frames`.
            fps: frames a second in place of a number of frames; with `max_frames` not more than that.
            do_sample_frames: `False` takes every frame.
            video_metadata: of videos in memory, transformers' `VideoMetadata` or a mapping with `fps` (or `duration`
                and `total_num_frames`), and `frames_indices` where frames are left out; for each video.
            allow_urls: fetch http and https addresses, of at most `MAX_URL_BYTES`. Never where `deadline` is set.

        Returns:
            `pixel_values_videos` float32 [V, Nf, 3, crop_size, crop_size] and `padding_mask_videos` int64 [V, Nf],
            1 = real frame. Padded frames are zero after normalisation.

        Raises:
            VideoDecodeError: a video that cannot be read, with its place in the list.
            ValueError: arrays of another shape, type or channel count.
        """
        if not (videos := [videos] if is_one_video(videos) else list(videos)):
            raise ValueError("videos is an empty list; pass at least one video")
        if num_frames is not None and max_frames is not None:
            raise ValueError(f"num_frames={num_frames} and max_frames={max_frames} are two names of one: pass one")
        if fps is not None and sampling is not None:
            raise ValueError(f"fps={fps} and sampling={sampling!r} are two rules: pass one")
        max_frames, rule = num_frames if max_frames is None else max_frames, sampling or self.sampling
        if not (self.do_sample_frames if do_sample_frames is None else do_sample_frames):
            max_frames, rule = sys.maxsize, "uniform"
        elif fps is not None:
            max_frames, rule = sys.maxsize if max_frames is None else max_frames, fps
        max_frames = self.max_frames if max_frames is None else max_frames
        pad = self.pad_to_max_frames if pad_to_max_frames is None else pad_to_max_frames
        if pad and max_frames == sys.maxsize:
            raise ValueError("videos are padded to max_frames (pad_to_max_frames, mask_padding=False): pass a number")
        windows = zip(_per_video("start", start, videos), _per_video("end", end, videos), strict=True)
        jobs = [(max_frames, *window, rule) for window in windows]
        known = _per_video("video_metadata", video_metadata, videos)
        if allow_urls and self.deadline is None:
            videos = [_fetched(video) for video in videos]
        with ThreadPoolExecutor(num_workers or 1) as pool:
            loaded = list((pool.map if num_workers else map)(self._load, range(len(videos)), videos, jobs, known))

        data = self._batch(loaded, max_frames if pad else max(len(crops) for crops, _ in loaded))
        if not return_metadata:
            del data["video_metadata"]
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["video_metadata"])

    def windows(
        self, video: Any, windows: Sequence[tuple[float | None, float | None]]
    ) -> Iterator[BatchFeature | VideoDecodeError]:
        """What the processor makes of each window, (start, end) in seconds, of a video file, which is read once.

        Yields batches of one video, padded to `max_frames` and with metadata, or why a window cannot be read. What
        concerns no window alone is raised.
        """

        def apart(window: tuple[float | None, float | None]) -> DecodedVideo | VideoDecodeError:
            try:
                return decode_in_process(video, self.max_frames, *window, *rest, **options)
            except VideoDecodeError as error:
                return error

        rest, options = (self.sampling, self.num_threads), dict[str, Any](transform=self._crop, deadline=self.deadline)
        together = self.deadline is None
        found = decode_windows(video, windows, self.max_frames, *rest, self._crop) if together else map(apart, windows)
        for decoded in found:
            if isinstance(decoded, DecodedVideo):
                metadata = {"timestamps": decoded.timestamps, "duration": decoded.duration}
                yield BatchFeature(self._batch([(decoded.frames, metadata)], self.max_frames))
            else:
                yield decoded

    def _batch(self, loaded: list[tuple[np.ndarray, dict[str, Any]]], length: int) -> dict[str, Any]:
        """Crops and metadata of videos -> pixels, padded with zeros to `length` frames, mask and metadata."""
        mask = torch.tensor([[1] * len(crops) + [0] * (length - len(crops)) for crops, _ in loaded])
        pixel_values = torch.zeros(*mask.shape, 3, self.crop_size, self.crop_size)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        for row, (crops, _) in zip(pixel_values, loaded, strict=True):
            row[: len(crops)].copy_(torch.from_numpy(crops)).div_(255).sub_(mean).div_(std)
        metadata = [metadata for _, metadata in loaded]
        return {"pixel_values_videos": pixel_values, "padding_mask_videos": mask, "video_metadata": metadata}

    def _load(
        self, index: int, video: Any, job: tuple[Any, Any, Any, Any], known: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """One video: uint8 [n, 3, crop_size, crop_size] and its metadata; the job is [`FrameSampling`]'s arguments."""
        name = f"videos[{index}]"
        if hasattr(video, "keys") and "array" in video:
            video, known = video["array"], video.get("video_metadata", known)
        decoder: Any = video if hasattr(video, "get_frames_at") else None
        if decoder is None and not isinstance(video, np.ndarray | torch.Tensor | list | tuple):
            decode = decode_video if self.deadline is None else partial(decode_in_process, deadline=self.deadline)
            try:
                decoded = decode(video, *job, self.num_threads, transform=self._crop)
            except VideoDecodeError as error:
                raise VideoDecodeError(f"{name}: {error}") from error
            return decoded.frames, {"timestamps": decoded.timestamps, "duration": decoded.duration}
        if decoder is not None:
            known = {"fps": decoder.metadata.average_fps, "duration": decoder.metadata.duration_seconds}
        images: Any = range(len(video)) if decoder is not None else _in_memory(video, name)
        sampling, (times, rate, duration) = FrameSampling(*job), _times(len(images), known, name)
        timed = sampling.start is not None or sampling.end is not None or isinstance(sampling.method, int | float)
        if times is None and timed:
            raise ValueError(
                f"{name}: start, end and fps need timestamps, which arrays and images lack; pass "
                "video_metadata={'fps': ...}, or cut it before"
            )
        positions = sampling.choose(np.arange(len(images)) if times is None else times, rate, name)
        if decoder is not None:
            wanted = sorted(set(positions.tolist()))
            frames = decoder.get_frames_at(indices=wanted).data
            images = dict(zip(wanted, _in_memory(frames, name), strict=True))
        crops = np.empty((len(positions), 3, self.crop_size, self.crop_size), np.uint8)
        for row, position in zip(crops, positions, strict=True):
            row[:] = self._crop(images[position])
        return crops, {"timestamps": None if times is None else times[positions], "duration": duration}

    def _crop(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """uint8 [3, crop_size, crop_size]: short side to `size`, the centre of that."""
        image = image.convert("RGB") if isinstance(image, Image.Image) else image
        size = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        width, height = (side * self.size // min(size) if self.keep_aspect_ratio else self.size for side in size)
        if not isinstance(image, Image.Image):
            if max(width, height) <= 16 * self.size:
                # PIL resizes rows, then columns. Its copy has 4 bytes a pixel: band by band it has no whole frame.
                bands = (Image.fromarray(image[top : top + 256]) for top in range(0, len(image), 256))
                image = np.concatenate(
                    [np.asarray(band.resize((width, band.height), self.resample)) for band in bands]
                )
            image = Image.fromarray(image)
        left, top = (round((side - self.crop_size) / 2) for side in (width, height))
        box = left, top, left + self.crop_size, top + self.crop_size
        if max(width, height) <= 16 * self.size:
            crop = image.resize((width, height), self.resample).crop(box)
        else:  # a strip would become huge: only the box, which PIL rounds to 32 bits
            x, y = image.width / width, image.height / height
            box = box[0] * x, box[1] * y, box[2] * x, box[3] * y
            crop = image.resize((self.crop_size, self.crop_size), self.resample, box)
        return np.asarray(crop).transpose(2, 0, 1)


def _in_memory(video: Any, name: str) -> Sequence[Image.Image] | np.ndarray:
    """The frames of a video that is in memory already: PIL images or uint8 [T, H, W, 3]."""
    if isinstance(video, list | tuple) and video and len({getattr(image, "shape", None) for image in video}) == 1:
        video = np.stack([np.asarray(image) for image in video]) if hasattr(video[0], "shape") else video
    if isinstance(video, list | tuple):
        if not all(isinstance(image, Image.Image) and min(image.size) for image in video):
            found = {(type(image).__name__, *getattr(image, "shape", getattr(image, "size", ()))) for image in video}
            kinds = ", ".join(f"{kind} {shape}" for kind, *shape in sorted(found))
            raise ValueError(f"{name}: a list must hold PIL images, or frames [H, W, 3] of one size; got {kinds}")
        frames = video
    else:
        frames = video.detach().cpu().numpy() if isinstance(video, torch.Tensor) else video
        if frames.dtype != np.uint8:
            bad = " with NaN or infinite values" if frames.dtype.kind == "f" and not np.isfinite(frames).all() else ""
            raise ValueError(f"{name}: pixels must be uint8 in 0..255, got {frames.dtype}{bad}; convert them before")
        if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]) or 0 in frames.shape[1:]:
            raise ValueError(f"{name}: must be [T, H, W, 3] or [T, 3, H, W], got {list(frames.shape)}")
        frames = frames if frames.shape[3] == 3 else frames.transpose(0, 2, 3, 1)
    if not len(frames):
        raise VideoDecodeError(f"{name}: has no frames")
    return frames


def _times(count: int, known: Any, name: str) -> tuple[np.ndarray | None, float, float | None]:
    """Seconds of frames in memory, how many a second are declared, and the duration; without metadata 1 a second."""
    known = known[0] if isinstance(known, list | tuple) and len(known) == 1 else known
    if known is None:
        return None, 1.0, None
    fps, duration, indices = known.get("fps"), known.get("duration"), known.get("frames_indices")
    if not fps and duration:
        fps = (known.get("total_num_frames") or count) / duration
    if not fps or not fps > 0 or (indices is not None and len(indices) != count):
        raise ValueError(
            f"{name}: video_metadata {dict(known)} must have fps above 0 (or duration), and frames_indices, where "
            f"given, one of each of the {count} frames"
        )
    times = np.arange(count) / fps if indices is None else np.asarray(indices) / fps
    return times, float(fps), float(duration or times[-1] + 1 / fps)


def _fetched(video: Any) -> Any:
    """What lies at an http or https address, in memory; anything else as it is."""
    if not isinstance(video, str) or not video.lower().startswith(("http://", "https://")):
        return video
    try:
        with urlopen(video, timeout=60) as response:
            content = response.read(MAX_URL_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise VideoDecodeError(f"{video}: cannot be fetched ({error})") from error
    if len(content) > MAX_URL_BYTES:
        raise VideoDecodeError(f"{video}: is larger than {MAX_URL_BYTES:,} bytes; download it and pass the file")
    return {"path": video, "bytes": content}


def is_one_video(videos: Any) -> bool:
    """Whether this is one video rather than several: so is a list of frames (PIL images, or of three dimensions)."""
    if isinstance(videos, np.ndarray | torch.Tensor):
        return videos.ndim != 5
    if isinstance(videos, list | tuple):
        first = videos[0] if videos else None
        return isinstance(first, Image.Image) or getattr(first, "ndim", None) == 3
    # Bytes, files, mappings and torchcodec's decoders can be iterated over, too.
    whole = isinstance(videos, str | bytes | bytearray | memoryview | Mapping) or not isinstance(videos, Iterable)
    return whole or hasattr(videos, "read") or hasattr(videos, "get_frames_at")


def _per_video(name: str, value: float | Sequence[float | None] | None, videos: list[Any]) -> list[float | None]:
    if not isinstance(value, Sequence):
        return [value] * len(videos)
    if len(value) != len(videos):
        raise ValueError(f"{name} has {len(value)} values for {len(videos)} videos")
    return list(value)


def _pixels(name: str, value: int | dict[str, int]) -> int:
    """A side in pixels, from a number or one of transformers' size dictionaries."""
    sides = list(value.values()) if isinstance(value, dict) else [value]
    if not sides or any(not isinstance(side, int) or side < 1 or side != sides[0] for side in sides):
        raise ValueError(f"{name}={value} must be one positive number of pixels")
    return sides[0]


GLCCLVideoProcessor.register_for_auto_class("AutoVideoProcessor")
