"""Generated video files for tests: every frame carries its number in its pixels."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Options under which two runs of an encoder, and all its frames, behave alike: no key frames but the regular ones.
CODEC_OPTIONS = {
    "libx264": {"preset": "ultrafast", "sc_threshold": "0", "bf": "3", "x264-params": "b-adapt=0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:scenecut=0:bframes=3:b-adapt=0"},
    "mpeg4": {"sc_threshold": "1000000000", "bf": "2"},
    "mpeg2video": {"sc_threshold": "1000000000", "bf": "2"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def frame_image(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 [height, width, 3]: the 12 bits of `number` as black and white blocks over a moving gradient."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows + number, columns - number, rows + columns + 2 * number], axis=-1) % 200
    bits = np.array([(number >> bit) & 1 for bit in range(12)], dtype=np.uint8).reshape(2, 6)
    top = height // 3 // 2 * 2
    blocks = np.kron(bits, np.ones((top // 2, width // 6), dtype=np.uint8)) * 255
    image[:top, : blocks.shape[1]] = blocks[..., None]
    return image.astype(np.uint8)


def frame_number(image: np.ndarray) -> int:
    """The number that `frame_image` drew, read from uint8 [height, width, 3] after any lossy codec."""
    height, width, _ = image.shape
    top, column = height // 3 // 2, width // 6
    blocks = image[: 2 * top, : 6 * column].mean(axis=2).reshape(2, top, 6, column).mean(axis=(1, 3))
    return sum(int(bit) << i for i, bit in enumerate((blocks > 127).ravel()))


def numbers(decoded) -> list[int]:
    """Those of the frames of a `DecodedVideo`."""
    return [frame_number(frame) for frame in decoded.frames]


def write_video(
    path: Path,
    num_frames: int | Iterable[np.ndarray],
    fps: int | str | Fraction = 25,
    codec: str = "libx264",
    key_interval: int = 12,
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    timestamps: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes numbered frames to a video file, its container chosen by the suffix of `path`.

    Args:
        num_frames: or the pictures themselves, uint8 [height, width, 3].
        size: width and height as stored, that is before the player applies `rotation`.
        rotation: degrees, counter-clockwise, noted in the file as cameras do.
        timestamps: seconds of each frame, in whole milliseconds; default `i / fps`.
        options: of the codec, beside `CODEC_OPTIONS`.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps), options=CODEC_OPTIONS.get(codec, {}) | (options or {})
        )
        stream.width, stream.height = size
        stream.pix_fmt = PIXEL_FORMATS.get(codec, "yuv420p")
        stream.codec_context.gop_size = key_interval
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if timestamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if isinstance(num_frames, int):
            num_frames = (frame_image(number, *size) for number in range(num_frames))
        for number, image in enumerate(num_frames):
            frame = av.VideoFrame.from_ndarray(image)
            if timestamps is not None:
                frame.pts, frame.time_base = round(1000 * timestamps[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(container, stream, num_packets: int) -> None:
    """Silence, 64 ms a packet."""
    for _ in range(num_packets):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "float32"), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_with_sound(
    path: Path, num_frames: int = 100, codec: str = "libx264", sound: str = "aac", start: float = 0.0
) -> Path:
    """Numbered frames, 25 a second and a key frame every 12, and a tone that begins with them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=CODEC_OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 12
        tone = container.add_stream(sound, rate=48_000, layout="mono", bit_rate=64_000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(frame_image(number))
            frame.pts, frame.time_base = number + round(25 * start), Fraction(1, 25)
            container.mux(stream.encode(frame))
            wave = np.sin(np.arange(number * 1920, (number + 1) * 1920) / 20) * 8000
            samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], "s16", "mono")
            samples.sample_rate, samples.pts = 48_000, number * 1920 + round(48_000 * start)
            container.mux(tone.encode(samples))
        container.mux(stream.encode(None))
        container.mux(tone.encode(None))
    return path
