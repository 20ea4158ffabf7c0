"""The world of the shapes benchmark in symbols: all that a model could know about a video or a caption. No pixels."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import numpy as np

COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
SHAPES = ("circle", "ring", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "large")
ACTIONS = ("slide left", "slide right", "rise", "fall", "grow", "shrink", "spin", "blink", "bounce")
SCENES = ("sea", "meadow", "desert", "night", "wall", "snow")

FPS = 8
NUM_FRAMES = 48
DURATION = NUM_FRAMES / FPS
# Degrees after which a turned shape looks the same; circles and rings always do, so they never spin.
SYMMETRY = {"square": 90, "triangle": 120, "star": 72, "cross": 90, "heart": 360}
# Places and radii as fractions of the frame's side. Shapes stand on a grid of three by three places and move from one
# to the next, so that a small vision transformer meets them at few positions within its patches: with shapes placed
# freely it needs far more than minutes to tell them apart.
PLACES = (0.25, 0.5, 0.75)
RADIUS = {"small": 0.15, "large": 0.25}
CHANGING_RADIUS = (0.1, 0.27)
# An event that changes its size has none.
SIZE_CHANGES = ("grow", "shrink")
PAIRS = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES)
# Of every colour the shapes that world 2 shows, and world 1 never does.
UNSEEN_PAIRS = frozenset((colour, SHAPES[(row + step) % 7]) for row, colour in enumerate(COLOURS) for step in (0, 3))


@dataclass(frozen=True)
class World:
    """What videos show, and how much captions say of them."""

    pairs: Set[tuple[str, str]] = PAIRS  # of colour and shape that occur together
    scenes: tuple[str, ...] = SCENES  # captions name those that they have words for
    radius: Mapping[str, float] = field(default_factory=lambda: RADIUS)
    changing_radius: tuple[float, float] = CHANGING_RADIUS
    speed: float = 1.0  # of turning, blinking and bouncing; what moves or grows takes its whole event
    num_frames: tuple[int, ...] = (NUM_FRAMES,)  # the lengths of videos in frames, each a multiple of 12
    size_share: float = 0.3  # how often captions say a size
    most_mentions: int = 3  # a caption is about 2 events, and in `mention_share` about one more, up to so many
    mention_share: float = 0.25
    # Words and commas of a caption. With BOS and EOS, a tokenizer that knows these words needs 30 of the 32 slots.
    max_words: int = 28


# The benchmark, and the two worlds of the cross-domain test: one to train on, and one that is only tested.
WORLDS = (
    World(),
    World(pairs=PAIRS - UNSEEN_PAIRS),
    World(
        pairs=UNSEEN_PAIRS,
        scenes=("stripes", "checks", "ripples"),
        radius={"small": 0.11, "large": 0.32},
        changing_radius=(0.08, 0.34),
        speed=1.5,
        num_frames=(36, 48, 60, 72, 84, 96, 120, 156, 168, 216, 264, 312),  # 4.5 to 39 seconds
        size_share=1.0,
        most_mentions=4,
        mention_share=1.0,
        max_words=38,
    ),
)


@dataclass(frozen=True)
class Event:
    """One shape doing one thing, from `start` to `end` in seconds. `size` is None where the action changes it."""

    colour: str
    shape: str
    size: str | None
    action: str
    start: float
    end: float


@dataclass(frozen=True)
class Mention:
    """What a caption says of one event; None where it leaves something out."""

    colour: str
    shape: str | None
    size: str | None
    action: str | None


@dataclass(frozen=True)
class Meaning:
    """What a caption claims: events (one after the other if `ordered`) and perhaps the scene."""

    mentions: tuple[Mention, ...]
    ordered: bool
    scene: str | None


@dataclass(frozen=True)
class Clip:
    """A video in symbols with its caption. `caption_events` are the indices of the events the caption is about."""

    video_id: str
    twin_group: int
    scene: str
    events: tuple[Event, ...]
    meaning: Meaning
    caption_events: tuple[int, ...]
    caption: str


@dataclass(frozen=True)
class Still:
    """A single frame in symbols with its phrase: centre (x, y) and radius as fractions of the side.

    `shape` is None for a frame that shows the scene alone. With an `event`, the frame shows it after `seconds`.
    """

    scene: str
    colour: str
    shape: str | None
    centre: tuple[float, float]
    radius: float
    degrees: int
    phrase: str
    event: Event | None = None
    seconds: float = 0.0


def satisfies(scene: str, events: Sequence[Event], meaning: Meaning, unseen: Set[str] = frozenset()) -> bool:
    """Whether a video of this scene and these events, in order, is one that a caption could be about.

    To a judge who cannot see what is `unseen`: any of "colour", "shape", "size", "action", "order", "scene".
    """
    if meaning.scene is not None and "scene" not in unseen and meaning.scene != scene:
        return False
    seen = [name for name in ("colour", "shape", "action", "size") if name not in unseen]
    wanted = [[(name, getattr(mention, name)) for name in seen] for mention in meaning.mentions]
    arrange = combinations if meaning.ordered and "order" not in unseen else permutations
    return any(
        all(
            value is None or getattr(event, name) == value
            for event, parts in zip(chosen, wanted, strict=True)
            for name, value in parts
        )
        for chosen in arrange(events, len(wanted))
    )


def relevant_frames(
    times: Sequence[float] | np.ndarray, events: Sequence[Event | Mapping[str, Any]], caption_events: Sequence[int]
) -> np.ndarray:
    """Which frames a caption is about: [len(times)] bool, for frames at `times` seconds, by two columns of its row."""
    times = np.asarray(times, dtype=np.float64)
    relevant = np.zeros(len(times), dtype=bool)
    for event in (events[index] for index in caption_events):
        span = vars(event) if isinstance(event, Event) else event
        relevant |= (times >= span["start"]) & (times < span["end"])
    return relevant
