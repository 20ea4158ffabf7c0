"""Videos of every container that can be written here: decoded, cut into clips, re-encoded."""

import io
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.logging import set_level
from videos import write_video

from modeling_glccl import video_decoding_glccl
from modeling_glccl.data.reencode import CompressSettings, compress_video
from modeling_glccl.processing_glccl import GLCCLProcessor
from modeling_glccl.search.clips import ClipSettings, read_clips
from modeling_glccl.training.tokenizer import train_clip_tokenizer
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_processing_glccl import GLCCLVideoProcessor
from modeling_glccl.video_streams_glccl import VideoDecodeError, locate, open_video

from .harness import attempt
from .mutate import mutate_bytes

SEEDS = (
    "libx264.mp4 libx265.mp4 mpeg4.mp4 libsvtav1.mp4 mjpeg.mp4 libx264.mkv libvpx.mkv ffv1.mkv mpeg4.avi mjpeg.avi "
    "libx264.avi libx264.mov mjpeg.mov libx264.ts mpeg2video.ts libvpx.webm libvpx-vp9.webm mpeg2video.mpg "
    "mpeg1video.mpg flv1.flv libx264.flv wmv2.wmv msmpeg4v3.asf mpeg4.nut libvpx.ivf mpeg2video.mxf mpeg4.3gp "
    "libsvtav1.avif libwebp_anim.webp gif.gif libx264.h264 rawvideo.y4m mjpeg.mjpeg"
)

PROCESSOR: list[GLCCLProcessor] = []


def setup(seeds: Path) -> None:
    set_level(None)
    for name in SEEDS.split():
        write_video(seeds / name, 30, codec=name.partition(".")[0])
    write_video(seeds / "turned.mp4", 20, rotation=90)
    write_video(seeds / "jump.mkv", 49, timestamps=[*np.arange(48) / 25, 4000.0])
    write_video(seeds / "wide.mkv", 3, size=(8192, 2), codec="ffv1")
    write_video(seeds / "long.mp4", 400, fps=5, size=(32, 24))
    with av.open(str(seeds / "thumbnail.mp4"), "w") as target:  # two streams, the first of one small frame
        streams = [target.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream, size in zip(streams, (32, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for stream, count in zip(streams, (1, 20), strict=True):
            for number in range(count):
                image = np.full((stream.height, stream.width, 3), 9 * number, np.uint8)
                target.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            target.mux(stream.encode(None))
    title = write_video(seeds / "latin.mkv", 20)
    title.write_bytes(title.read_bytes().replace(b"Lavf", b"L\xe9vf"))


def warm(seeds: Path) -> None:
    set_level(None)
    videos = GLCCLVideoProcessor(size=16, crop_size=16, max_frames=4)
    PROCESSOR.append(GLCCLProcessor(train_clip_tokenizer(["a word"], vocab_size=520), videos))


def run(rng: random.Random, seeds: Path, work: Path) -> None:
    names = sorted(os.listdir(seeds))
    name, other = rng.choice(names), rng.choice(names)
    data, intact = (seeds / name).read_bytes(), rng.random() < 0.03
    if not intact:
        data = mutate_bytes(rng, data, (seeds / other).read_bytes())
    path = work / f"x{Path(name).suffix if rng.random() < 0.9 else Path(other).suffix}"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rng.choice((_decode, _decode, _decode, _compress, _clips, _process))(rng, path, data)
    assert not (intact and caught and name not in ("thumbnail.mp4", "jump.mkv", "libsvtav1.avif")), [
        str(w.message) for w in caught
    ]
    assert all("x." in str(w.message) or "video bytes" in str(w.message) for w in caught), [str(w) for w in caught]


def _decode(rng: random.Random, path: Path, data: bytes) -> None:
    """The same from the path and from the bytes; as many frames as there are, in order, inside the duration."""
    most = rng.choice((1, 2, 12, 12, 100))
    window = {}
    if rng.random() < 0.4:
        window["start"] = rng.choice((0, 0.5, 1.9, 30, 1e9))
        window["end"] = window["start"] + rng.choice((0.01, 1, 31))
    method = rng.choice(("uniform", "uniform", "uniform", "release"))
    named = io.BytesIO(data)
    named.name = "x.m3u8"
    sources = [data, {"path": None, "bytes": data}, named]
    found = attempt(lambda: decode_video(str(path), most, sampling=method, **window), str(path))
    try:
        again = decode_video(rng.choice(sources), most, sampling=method, **window)
    except VideoDecodeError as error:  # right if it is the name alone by which FFmpeg knows the format
        for suffix in (".x", ".m3u8"):
            renamed = shutil.copyfile(path, path.with_suffix(suffix))
            attempt(lambda renamed=renamed: decode_video(renamed, most, sampling=method, **window))
        raise AssertionError("refused as bytes, but not as a file") from error
    times, frames = found.frame_times, found.frames
    if rng.random() < 0.3:
        _compare(found, path, video_decoding_glccl.FrameSampling(most, method=method, **window))
    assert np.array_equal(frames, again.frames), "other frames from bytes than from a path"
    assert np.array_equal(found.timestamps, again.timestamps), "other times from bytes than from a path"
    assert (frames.dtype, frames.ndim, frames.shape[-1]) == (np.uint8, 4, 3), frames.shape
    assert 1 <= len(frames) == len(found.timestamps) <= most, (len(frames), most)
    assert (np.diff(times) > 0).all(), "times do not ascend"
    assert (np.diff(found.timestamps) >= 0).all(), found.timestamps
    assert np.isin(found.timestamps, times).all(), "times that no frame has"
    assert times[-1] < found.duration < np.inf, (times[-1], found.duration)
    if method == "uniform" and not window:
        assert len(frames) == min(most, len(times)), (len(frames), len(times))
    clips = ClipSettings().windows(times, found.duration)
    assert 1 <= len(clips) <= 2 * len(times), (len(clips), len(times))


def _compare(found: video_decoding_glccl.DecodedVideo, path: Path, sampling: Any) -> None:
    """With what decoding in order gives, unless either meets packets which do not decode, as it then says.

    What a decoder shows of a damaged packet without a word depends on what it has decoded before.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode_video(path, 1)
        slow = next(video_decoding_glccl._decode_in_order(locate(str(path)), [sampling], 1, None))
    if not caught:
        assert np.array_equal(slow.frame_times, found.frame_times), "other times in order"
        assert np.array_equal(slow.timestamps, found.timestamps), "another choice in order"
        assert np.array_equal(slow.frames, found.frames) or _patched(path), "other frames in order"


def _patched(path: Path) -> bool:
    with open_video(str(path), 1) as (container, stream):
        stream.codec_context.options = {"err_detect": "explode"}
        try:
            return any(frame.is_corrupt for frame in container.decode(stream))
        except FFmpegError:
            return True


def _compress(rng: random.Random, path: Path, data: bytes) -> None:
    """A file that decodes, as long as the original."""
    settings = CompressSettings(fps=rng.choice((1, 3, 30)), short_side=rng.choice((16, 224)))
    small = attempt(lambda: compress_video(path, settings), str(path))
    with warnings.catch_warnings(record=True) as caught:  # of what cannot be read, both may keep different parts
        warnings.simplefilter("always")
        first, second = decode_video(path, max_frames=1), decode_video(small, max_frames=1)
    late = max(0.0, float(first.frame_times[0]))
    assert caught or abs(first.duration - second.duration) <= 1 / settings.fps + late + 0.1, (
        first.duration,
        second.duration,
    )


def _clips(rng: random.Random, path: Path, data: bytes) -> None:
    """Inside the duration, with a frame each."""
    errors = []
    for clip in attempt(lambda: list(read_clips(str(path), PROCESSOR[0], ClipSettings(), errors)), str(path)):
        assert 0 <= clip.start < clip.end <= clip.duration + 1e-6, (clip.start, clip.end, clip.duration)
        assert len(clip.times) >= 1, clip.times
    assert all(errors), errors


def _process(rng: random.Random, path: Path, data: bytes) -> None:
    """The processor blames the one video that is broken, and reads the others."""
    batch = attempt(lambda: PROCESSOR[0](videos=[data, str(path)]), "videos[0]")
    pixels = batch["pixel_values_videos"]
    assert pixels.isfinite().all(), "pixels that are no numbers"
    assert pixels[0].equal(pixels[1]), "other pixels from bytes than from a path"
