"""Videos as files, arrays or images -> `pixel_values_videos` and `padding_mask_videos`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_processing_utils import VideoProcessorMixin

from .decoding_process_glccl import decode_in_process
from .video_decoding_glccl import FrameSampling, VideoDecodeError, sample_video


class GLCCLVideosKwargs(TypedDict, total=False):
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
    valid_kwargs = GLCCLVideosKwargs
    # For videos of strangers: reading of `time.monotonic()` until which files are decoded, in a process of their own.
    deadline: float | None = None

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
        FrameSampling(max_frames, method=sampling)  # refuses bad values
        self.keep_aspect_ratio = keep_aspect_ratio
        self.resample = int(Image.Resampling(resample))  # refuses what PIL does not know
        if len(image_mean) != 3 or len(image_std) != 3 or not all(value > 0 for value in image_std):
            raise ValueError(f"image_mean={image_mean}, image_std={image_std}: three numbers each, the latter above 0")
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.max_frames = max_frames
        self.sampling = sampling
        self.pad_to_max_frames = pad_to_max_frames
        self.num_threads = num_threads

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
    ) -> BatchFeature:
        """Prepares one video, or a list of V videos.

        Args:
            videos: each a path, bytes, binary file object or `{"path", "bytes"}` (see [`decode_video`]); or uint8
                numpy [T, H, W, 3]; or uint8 tensor [T, 3, H, W] or [T, H, W, 3]; or a list of PIL images. The last
                three have no timestamps: "uniform" takes their frames as equally spaced, "release" as one a second.
            start, end: seconds; the clip to take, of all videos or one value for each. Files only.
            max_frames, sampling, pad_to_max_frames: override the processor's own for this call.
            num_workers: threads that read videos side by side; 0 reads one after the other.
            return_metadata: add `video_metadata`: for each video a dict of `timestamps` (float64 [n], seconds) and
                `duration` (seconds), both None for arrays.
            return_tensors: "pt" or "np".

        Returns:
            `pixel_values_videos` float32 [V, Nf, 3, crop_size, crop_size] and `padding_mask_videos` int64 [V, Nf],
            1 = real frame. Padded frames are zero after normalisation.

        Raises:
            VideoDecodeError: a video that cannot be read, with its place in the list.
            ValueError: arrays of another shape, type or channel count.
        """
        videos = _as_list(videos)
        max_frames = self.max_frames if max_frames is None else max_frames
        windows = zip(_per_video("start", start, videos), _per_video("end", end, videos), strict=True)
        jobs = [FrameSampling(max_frames, *window, sampling or self.sampling) for window in windows]
        if num_workers:
            with ThreadPoolExecutor(num_workers) as pool:
                loaded = list(pool.map(self._load, range(len(videos)), videos, jobs))
        else:
            loaded = list(map(self._load, range(len(videos)), videos, jobs))

        pad = self.pad_to_max_frames if pad_to_max_frames is None else pad_to_max_frames
        length = max_frames if pad else max(len(crops) for crops, _ in loaded)
        levels = torch.zeros(len(videos), length, 3, self.crop_size, self.crop_size, dtype=torch.uint8)
        mask = torch.zeros(len(videos), length, dtype=torch.int64)
        for i, (crops, _) in enumerate(loaded):
            levels[i, : len(crops)] = torch.from_numpy(crops)
            mask[i, : len(crops)] = 1
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        pixel_values = levels.float().div_(255).sub_(mean).div_(std)
        pixel_values[mask == 0] = 0
        data = {"pixel_values_videos": pixel_values, "padding_mask_videos": mask}
        if return_metadata:
            data["video_metadata"] = [metadata for _, metadata in loaded]
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["video_metadata"])

    def _load(self, index: int, video: Any, sampling: FrameSampling) -> tuple[np.ndarray, dict[str, Any]]:
        """One video: uint8 [n, 3, crop_size, crop_size] and its metadata."""
        name = f"videos[{index}]"
        if isinstance(video, np.ndarray | torch.Tensor | list | tuple):
            crops = np.stack([self._crop(image) for image in _sampled_images(video, sampling, name)])
            return crops, {"timestamps": None, "duration": None}
        try:
            if self.deadline is None:
                decoded = sample_video(video, sampling, self.num_threads, self._crop)
            else:
                job = *astuple(sampling), self.num_threads, self._crop
                decoded = decode_in_process(video, *job, deadline=self.deadline)  # pyright: ignore[reportCallIssue]
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{name}: {error}") from error
        return decoded.frames, {"timestamps": decoded.timestamps, "duration": decoded.duration}

    def _crop(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """uint8 [3, crop_size, crop_size]: short side to `size`, the centre of that."""
        image = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
        short = min(image.size)
        sides = [side * self.size // short for side in image.size] if self.keep_aspect_ratio else [self.size] * 2
        corner = [round((side - self.crop_size) / 2) for side in sides]
        box = [*corner, *(start + self.crop_size for start in corner)]
        if max(sides) <= 16 * self.size:
            crop = image.resize(sides, self.resample).crop(box)
        else:  # a strip would become huge: only the box, which PIL rounds to 32 bits
            scale = [side / resized for side, resized in zip(image.size, sides, strict=True)] * 2
            box = [edge * factor for edge, factor in zip(box, scale, strict=True)]
            crop = image.resize((self.crop_size, self.crop_size), self.resample, box)
        return np.asarray(crop).transpose(2, 0, 1)


def _sampled_images(video: Any, sampling: FrameSampling, name: str) -> list[np.ndarray | Image.Image]:
    """The chosen frames of a video that is in memory already."""
    if sampling.start is not None or sampling.end is not None:
        raise ValueError(f"{name}: start and end need timestamps, which arrays and images lack; cut it before")
    if isinstance(video, list | tuple):
        if not all(isinstance(image, Image.Image) for image in video):
            kinds = ", ".join(sorted({type(image).__name__ for image in video}))
            raise ValueError(f"{name}: a list must hold PIL images, got {kinds}; stack arrays to [T, H, W, 3]")
    else:
        array = video.detach().cpu().numpy() if isinstance(video, torch.Tensor) else video
        if array.dtype != np.uint8:
            bad = " with NaN or infinite values" if array.dtype.kind == "f" and not np.isfinite(array).all() else ""
            raise ValueError(f"{name}: pixels must be uint8 in 0..255, got {array.dtype}{bad}; convert them before")
        if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
            raise ValueError(f"{name}: must be [T, H, W, 3] or [T, 3, H, W], got {list(array.shape)}")
        video = array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1)
    if not len(video):
        raise VideoDecodeError(f"{name}: has no frames")
    return [video[position] for position in sampling.choose(np.arange(len(video)), frame_rate=1, name=name)]


def _as_list(videos: Any) -> list[Any]:
    if isinstance(videos, np.ndarray | torch.Tensor):
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, list | tuple):
        return [videos]
    if not videos:
        raise ValueError("videos is an empty list; pass at least one video")
    return [videos] if isinstance(videos[0], Image.Image) else list(videos)


def _per_video(name: str, value: float | Sequence[float | None] | None, videos: list[Any]) -> list[float | None]:
    if not isinstance(value, Sequence):
        return [value] * len(videos)
    if len(value) != len(videos):
        raise ValueError(f"{name} has {len(value)} values for {len(videos)} videos")
    return list(value)


def _pixels(name: str, value: int | dict[str, int]) -> int:
    """A side in pixels, from a number or one of transformers' size dictionaries."""
    sides = set(value.values()) if isinstance(value, dict) else {value if isinstance(value, int) else str(value)}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{name}={value} must be one positive number of pixels")
    return sides.pop()


GLCCLVideoProcessor.register_for_auto_class("AutoVideoProcessor")
