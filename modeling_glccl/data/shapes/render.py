"""Pixels of the shapes benchmark: frames of a video or a still, and H.264 files."""

import io
import math
from collections.abc import Sequence
from functools import lru_cache

import av
import numpy as np
from PIL import Image, ImageDraw

from .world import FPS, PLACES, SIZE_CHANGES, WORLDS, Event, Still, World

RGB = {
    "red": (225, 35, 35),
    "yellow": (245, 220, 40),
    "green": (40, 200, 60),
    "blue": (50, 90, 245),
    "purple": (180, 50, 215),
    "white": (250, 250, 250),
}
_OUTLINE = np.full(3, 12, dtype=np.float32)
# Seconds. A blinking shape is gone, and a bouncing one in the air, in the second half of each period: half a period is
# the distance of two among 12 uniformly sampled frames, so that neighbours always differ.
_PERIOD = 1.0
# Degrees per second; between two sampled frames this is no symmetry of any shape that spins.
_SPIN = 76.0
_SUPERSAMPLING = 4
# Seconds ago and opacity of the after-images behind a shape, as a long exposure leaves them: they show in a single
# frame how the shape moves.
_AFTER_IMAGES = ((0.75, 0.3), (0.5, 0.4), (0.25, 0.5))


def _heart(t: float) -> tuple[float, float]:
    height = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.95 * math.sin(t) ** 3, -0.06 * height - 0.1


# x, y and radius as fractions of the side, and degrees.
_Pose = tuple[float, float, float, float]
_LONG, _SHORT = 0.97, 0.34
# Corners in a circle of radius 1, y downwards.
_CORNERS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "cross": [
        (-_SHORT, -_LONG), (_SHORT, -_LONG), (_SHORT, -_SHORT), (_LONG, -_SHORT), (_LONG, _SHORT), (_SHORT, _SHORT),
        (_SHORT, _LONG), (-_SHORT, _LONG), (-_SHORT, _SHORT), (-_LONG, _SHORT), (-_LONG, -_SHORT), (-_SHORT, -_SHORT),
    ],
    "star": [
        (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate((1.08, 0.42) * 5)
    ],
    "heart": [_heart(i * math.pi / 20) for i in range(40)],
}  # fmt: skip


@lru_cache(maxsize=4096)
def _sprite(shape: str, radius: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of a shape and of its dark outline: two [side, side, 1] float32 in 0..1, radius in pixels."""
    scale = _SUPERSAMPLING
    side = 2 * math.ceil(radius * 1.1 + 1.5)
    centre, reach = side * scale / 2, radius * scale
    masks = []
    for border in (0, 2 * scale):
        mask = Image.new("L", (side * scale, side * scale))
        draw = ImageDraw.Draw(mask)
        if shape in ("circle", "ring"):
            outer, inner = 0.95 * reach + border / 2, 0.5 * reach - border / 2
            draw.ellipse([centre - outer, centre - outer, centre + outer, centre + outer], fill=255)
            if shape == "ring" and inner > 0:
                draw.ellipse([centre - inner, centre - inner, centre + inner, centre + inner], fill=0)
        else:
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            corners = [
                (centre + reach * (x * cos - y * sin), centre + reach * (x * sin + y * cos))
                for x, y in _CORNERS[shape]
            ]
            draw.polygon(corners, fill=255)
            if border:
                draw.line([*corners, *corners[:2]], fill=255, width=border, joint="curve")
        small = mask.resize((side, side), Image.Resampling.BOX)
        masks.append(np.asarray(small, dtype=np.float32)[..., None] / 255)
    return masks[0], masks[1]


def _draw_shape(frame: np.ndarray, colour: np.ndarray, shape: str, pose: _Pose, opacity: float = 1.0) -> None:
    """Draws a shape with a dark outline into `frame` [side, side, 3] float32."""
    x, y, radius, degrees = pose
    fill, outline = _sprite(shape, round(radius * len(frame) * 2) / 2, round(degrees) % 360)
    side = len(fill)
    left, top = round(x * len(frame)) - side // 2, round(y * len(frame)) - side // 2
    rows, columns = (slice(max(edge, 0), min(edge + side, len(frame))) for edge in (top, left))
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    part = frame[rows, columns]
    part += np.float32(opacity) * outline[inside] * (_OUTLINE + fill[inside] * (colour - _OUTLINE) - part)


def _jitter_colour(rng: np.random.Generator, colour: str) -> np.ndarray:
    """The colour with a little variation: [3] float32 in 0..255."""
    return np.clip(np.array(RGB[colour], np.float32) + rng.uniform(-12, 12, 3).astype(np.float32), 0, 255)


def _texture(rng: np.random.Generator, scene: str, side: int) -> np.ndarray:
    """A muted background that repeats seamlessly: [side, side, 3] float32 in 0..255."""
    y, x = np.meshgrid(*[np.arange(side, dtype=np.float32) * (2 * np.pi / side)] * 2, indexing="ij")
    phase = rng.uniform(0, 2 * np.pi)
    if scene == "sea":
        base, light = (38, 72, 96), 16 * np.sin(5 * y + 1.2 * np.sin(2 * x + phase))
    elif scene == "meadow":
        blades = rng.normal(0, 14, side).astype(np.float32)
        base, light = (62, 92, 50), blades[None, :] * (0.7 + 0.3 * np.sin(2 * y + phase))
    elif scene == "desert":
        base, light = (150, 120, 82), 14 * np.sin(x + 2 * y + 1.5 * np.sin(x + phase))
    elif scene == "night":
        base, light = (20, 20, 42), 150 * (rng.random((side, side)) < 0.012).astype(np.float32)
    elif scene == "wall":
        brick = side // 8
        row, column = np.indices((side, side))
        shifted = column + brick * (row // brick % 2)
        mortar = (row % brick == 0) | (shifted % (2 * brick) == 0)
        base, light = (112, 72, 60), 45 * mortar.astype(np.float32)
    elif scene == "stripes":
        base, light = (122, 84, 112), 30 * np.sign(np.sin(6 * x + 2 * np.sin(y + phase)))
    elif scene == "checks":
        base, light = (92, 98, 104), 28 * np.sign(np.sin(4 * x + phase) * np.sin(4 * y))
    elif scene == "ripples":
        base, light = (58, 108, 104), 26 * np.sin(5 * np.cos(x) + 5 * np.cos(y) + phase)
    else:  # snow
        flakes = rng.random((side, side)) < 0.02
        flakes = flakes | np.roll(flakes, 1, 0) | np.roll(flakes, 1, 1)
        base, light = (140, 150, 165), 60 * flakes.astype(np.float32)
    return np.array(base, np.float32) + rng.uniform(-8, 8) + light[..., None].astype(np.float32)


def _pose(event: Event, place: tuple[float, float], seconds: float, world: World) -> _Pose | None:
    """The pose of a shape `seconds` into its event; None while invisible."""
    progress = seconds / (event.end - event.start)
    x, y = place
    radius = world.radius[event.size] if event.size else 0.0
    degrees = 0.0
    seconds *= world.speed
    moved = _travel(1 - progress if event.action in ("slide left", "rise") else progress)
    if event.action in ("slide left", "slide right"):
        x = moved
    elif event.action in ("rise", "fall"):
        y = moved
    elif event.action in SIZE_CHANGES:
        first, last = world.changing_radius if event.action == "grow" else world.changing_radius[::-1]
        radius = first + (last - first) * progress
    elif event.action == "spin":
        degrees = _SPIN * seconds
    elif event.action == "bounce":
        flight = max(0.0, 2 * (seconds % _PERIOD) / _PERIOD - 1)
        y = PLACES[-1] - (PLACES[-1] - PLACES[0]) * min(1.0, 6 * flight * (1 - flight))
    elif seconds % _PERIOD >= _PERIOD / 2:
        return None
    return x, y, radius, degrees


def _draw_event(
    frame: np.ndarray, colour: np.ndarray, event: Event, place: tuple[float, float], seconds: float, world: World
) -> None:
    """Draws a shape `seconds` into its event, with its after-images, larger ones behind smaller ones."""
    now = _pose(event, place, seconds, world)
    if now is None:
        return
    poses = [(_pose(event, place, seconds - ago, world), opacity) for ago, opacity in _AFTER_IMAGES if seconds >= ago]
    poses = [(pose, opacity) for pose, opacity in poses if pose is not None and pose != now]
    for pose, opacity in sorted([*poses, (now, 1.0)], key=lambda item: -item[0][2]):
        _draw_shape(frame, colour, event.shape, pose, opacity)


def _travel(progress: float) -> float:
    """From the first place to the last one, with a stay at each."""
    stay = 1 / 3
    position = min(max(progress * len(PLACES) - 0.5, 0.0), len(PLACES) - 1.0)
    stop = min(int(position), len(PLACES) - 2)
    moved = min(max((position - stop - stay) / (1 - 2 * stay), 0.0), 1.0)
    return PLACES[stop] + (PLACES[stop + 1] - PLACES[stop]) * moved


def _background(rng: np.random.Generator, scene: str, side: int, num_frames: int) -> np.ndarray:
    """A scene that drifts, with noise: [num_frames, side, side, 3] float32 in 0..255."""
    texture = _texture(rng, scene, side)
    start = rng.integers(0, side, 2)
    velocity = rng.uniform(0.5, 1.5, 2) * rng.choice([-1, 1], 2)
    noise = rng.normal(0, 6, (side, side, 1)).astype(np.float32)
    # Both repeat, so that a shifted copy is a part of four of them side by side.
    texture, noise = (np.tile(image, (2, 2, 1)) for image in (texture, noise))

    def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
        top, left = -shift % side
        return image[top : top + side, left : left + side]

    return np.stack(
        [
            shifted(texture, (start + velocity * index).astype(int)) + shifted(noise, shift)
            for index, shift in enumerate(rng.integers(0, side, (num_frames, 2)))
        ]
    )


def render_frames(
    rng: np.random.Generator, scene: str, events: Sequence[Event], side: int, world: World = WORLDS[0]
) -> np.ndarray:
    """A video: [frames, side, side, 3] uint8, to the end of the last event. Positions, shades and noise are drawn."""
    frames = _background(rng, scene, side, round(events[-1].end * FPS))
    for event in events:
        colour = _jitter_colour(rng, event.colour)
        place = PLACES[rng.integers(3)], PLACES[rng.integers(3)]
        for index in range(round(event.start * FPS), round(event.end * FPS)):
            _draw_event(frames[index], colour, event, place, index / FPS - event.start, world)
    return np.clip(frames, 0, 255).astype(np.uint8)


def render_still(rng: np.random.Generator, still: Still, side: int) -> np.ndarray:
    """A single frame: [side, side, 3] uint8."""
    frame = _background(rng, still.scene, side, 1)[0]
    if still.event is not None:
        _draw_event(frame, _jitter_colour(rng, still.colour), still.event, still.centre, still.seconds, WORLDS[0])
    elif still.shape is not None:
        pose = *still.centre, still.radius, still.degrees
        _draw_shape(frame, _jitter_colour(rng, still.colour), still.shape, pose)
    return np.clip(frame, 0, 255).astype(np.uint8)


def encode_video(frames: np.ndarray) -> bytes:
    """Frames [T, H, W, 3] uint8 as an H.264 .mp4 file at `FPS`; H and W must be even."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "ultrafast", "crf": "26", "threads": "1"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
