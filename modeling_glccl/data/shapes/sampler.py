"""Draws the videos of the shapes benchmark in symbols: disjoint event combinations, groups of hard twins."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np

from .wording import write_action_phrase, write_caption, write_empty_phrase, write_phrase
from .world import (
    ACTIONS,
    CHANGING_RADIUS,
    COLOURS,
    FPS,
    NUM_FRAMES,
    PLACES,
    SCENES,
    SHAPES,
    SIZE_CHANGES,
    SIZES,
    SYMMETRY,
    Clip,
    Event,
    Meaning,
    Mention,
    Still,
    satisfies,
)

SPLITS = ("train", "validation", "test")
# Events are laid out in twelfths of the video, so that any 12 uniformly sampled frames hold at least three of each.
STEPS = 12
MIN_STEPS = 3
# In what the second, third and fourth video of a group differ from the first.
TWINS = ("shape", "action", "order")
STILLS_PER_GROUP = 8
# A single frame of a blinking shape shows nothing of it.
STILL_ACTIONS = tuple(action for action in ACTIONS if action != "blink")

KINDS = tuple(kind for kind in product(COLOURS, SHAPES, ACTIONS) if kind[1] in SYMMETRY or kind[2] != "spin")
COLOUR, SHAPE, ACTION = range(3)
_KIND_CODES = np.array(
    [(COLOURS.index(colour), SHAPES.index(shape), ACTIONS.index(action)) for colour, shape, action in KINDS]
)


def pair_splits() -> np.ndarray:
    """The split that owns each unordered pair of event kinds: [len(KINDS), len(KINDS)] index into `SPLITS`.

    Half of the pairs belong to train, a quarter to validation, a quarter to test. The same for every seed and size, so
    that the training set of one seed never shows an event combination of the test set of another.
    """
    owner = np.random.default_rng(2605_17959).choice(3, p=[0.5, 0.25, 0.25], size=(len(KINDS),) * 2).astype(np.int8)
    return np.triu(owner) + np.triu(owner, 1).T


def sample_clips(split: str, count: int, seed: int = 0) -> list[Clip]:
    """The first `count` videos of a split in symbols.

    Videos come in groups of four (the last group may be cut short): one and its three hard twins, which have its
    colours, scene and events but for the shape of one event, the action of another, or the order of these two. No
    other video of the split satisfies a caption in validation and test, no twin in train.

    Raises:
        ValueError: unknown split, negative count or seed.
    """
    return list(iter_clips(split, count, seed))


def iter_clips(split: str, count: int, seed: int = 0) -> Iterator[Clip]:
    """[`sample_clips`], one after the other."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the shapes benchmark has {', '.join(SPLITS)}")
    if count < 0 or seed < 0:
        raise ValueError(f"count={count} and seed={seed} must not be negative")
    owned = pair_splits() == SPLITS.index(split)
    clips: list[Clip] = []
    group = 0
    while len(clips) < count:
        new = _sample_group(split, group, len(clips), seed, owned, clips)
        yield from new[: count - len(clips)]
        clips += new
        group += 1


def _sample_group(split: str, group: int, first: int, seed: int, owned: np.ndarray, earlier: list[Clip]) -> list[Clip]:
    """One group of twins that goes with the `earlier` ones."""
    for attempt in range(1000):
        rng = np.random.default_rng([0, seed, SPLITS.index(split), group, attempt])
        scene = _pick(rng, SCENES)
        videos, about = _sample_videos(rng, owned)
        new = []
        for events in videos:
            others = [other for other in videos if other is not events]
            meaning = _sample_meaning(rng, scene, events, about, others)
            if meaning is None:
                break
            caption = write_caption(rng, meaning)
            new.append(Clip(f"{split}_{first + len(new):05d}", group, scene, events, meaning, about, caption))
        else:
            if split == "train" or not any(_confusable(a, b) for a in new for b in earlier):
                return new
    raise RuntimeError(f"found no unambiguous videos for twin group {group} of {split}: ask for fewer videos")


def _confusable(a: Clip, b: Clip) -> bool:
    return satisfies(a.scene, a.events, b.meaning) or satisfies(b.scene, b.events, a.meaning)


def _sample_videos(rng: np.random.Generator, owned: np.ndarray) -> tuple[list[tuple[Event, ...]], tuple[int, ...]]:
    """The events of each video of a group, and the indices of the events that the captions are about."""
    num_events = int(rng.integers(3, 5))
    num_about = 3 if num_events == 4 and rng.random() < 0.25 else 2
    first, second, *rest = (int(index) for index in rng.permutation(num_events)[:num_about])
    varied = {first: SHAPE, second: ACTION}
    kinds = None
    while kinds is None:
        kinds = _sample_kinds(rng, owned, [varied.get(index) for index in range(num_events)])
    sizes = [_pick(rng, SIZES) for _ in range(num_events)]
    spans = _sample_spans(rng, num_events)
    videos = []
    for difference in (None, *TWINS):
        variant = {first: difference == "shape", second: difference == "action"}
        order = list(range(num_events))
        if difference == "order":
            order[first], order[second] = second, first
        events = []
        for index, (start, end) in zip(order, spans, strict=True):
            colour, shape, action = kinds[index][variant.get(index, 0)]
            size = None if action in SIZE_CHANGES else sizes[index]
            events.append(Event(colour, shape, size, action, start, end))
        videos.append(tuple(events))
    return videos, tuple(sorted((first, second, *rest)))


def _sample_kinds(
    rng: np.random.Generator, owned: np.ndarray, varied: Sequence[int | None]
) -> list[list[tuple[str, str, str]]] | None:
    """For each event its kind and, where a field is varied, a second kind; None if the draw leads nowhere.

    Colours differ between events, and every pair of kinds from different events is `owned` by the split.
    """
    free = np.ones(len(KINDS), dtype=bool)
    chosen = []
    for field in varied:
        if not free.any():
            return None
        kinds = [int(rng.choice(np.flatnonzero(free)))]
        if field is not None:
            same = np.delete(np.arange(3), field)
            twins = free & (_KIND_CODES[:, same] == _KIND_CODES[kinds[0], same]).all(1)
            twins[kinds[0]] = False
            if not twins.any():
                return None
            kinds.append(int(rng.choice(np.flatnonzero(twins))))
        free &= owned[kinds].all(0) & (_KIND_CODES[:, COLOUR] != _KIND_CODES[kinds[0], COLOUR])
        chosen.append([KINDS[index] for index in kinds])
    return chosen


def _sample_spans(rng: np.random.Generator, num_events: int) -> list[tuple[float, float]]:
    """Start and end of each event in seconds, jittered by less than would move a uniformly sampled frame."""
    spare = rng.multinomial(STEPS - MIN_STEPS * num_events, np.full(num_events, 1 / num_events))
    frames = np.cumsum(MIN_STEPS + spare) * (NUM_FRAMES // STEPS)
    frames[:-1] += rng.integers(-1, 2, num_events - 1)
    edges = [0.0, *(frames / FPS).tolist()]
    return list(pairwise(edges))


def _sample_meaning(
    rng: np.random.Generator,
    scene: str,
    events: tuple[Event, ...],
    about: tuple[int, ...],
    others: list[tuple[Event, ...]],
) -> Meaning | None:
    """A partial description of a video that none of its twins satisfies; None if chance finds none."""
    for _ in range(50):
        mentions = []
        for event in (events[index] for index in about):
            says_shape = rng.random() < 0.9
            says_size = rng.random() < 0.3
            mentions.append(
                Mention(
                    event.colour, event.shape if says_shape else None, event.size if says_size else None, event.action
                )
            )
        meaning = Meaning(tuple(mentions), bool(rng.random() < 0.9), scene if rng.random() < 0.5 else None)
        if not any(satisfies(scene, other, meaning) for other in others):
            return meaning
    return None


def sample_still(index: int, seed: int = 0) -> Still:
    """A frame with a phrase for image-text pre-training, in any size that a video can show.

    Stills come in groups of `STILLS_PER_GROUP` twins of the same colour before the same scene: of what differs within
    a batch a contrastive model learns to read only what it needs, and colours would do among random frames.
    """
    group, member = divmod(index, STILLS_PER_GROUP)
    shared = np.random.default_rng([3, seed, group])
    scene, colour = _pick(shared, SCENES), _pick(shared, COLOURS)
    rng = np.random.default_rng([4, seed, index])
    shapes = shared.permutation(SHAPES).tolist()
    if shared.random() < 0.4:
        return _sample_resting_still(rng, scene, colour, [*shapes, None][member])
    shape, action = shapes[0], STILL_ACTIONS[member]
    if action == "spin" and shape not in SYMMETRY:
        return _sample_resting_still(rng, scene, colour, shape)
    place = PLACES[shared.integers(3)], PLACES[shared.integers(3)]
    return _sample_action_still(rng, scene, colour, shape, action, place)


def _sample_resting_still(rng: np.random.Generator, scene: str, colour: str, shape: str | None) -> Still:
    """A frame of a shape at rest, or of the scene alone."""
    x, y = PLACES[rng.integers(3)], PLACES[rng.integers(3)]
    radius = float(rng.uniform(*CHANGING_RADIUS))
    tilted = shape in SYMMETRY and rng.random() < 0.3
    degrees = round(SYMMETRY[shape] * rng.uniform(0.2, 0.8)) if tilted else 0
    if shape is None:
        return Still(scene, colour, None, (x, y), radius, degrees, write_empty_phrase(rng, scene))
    rows, columns = ("top", None, "bottom"), ("left", None, "right")
    places = [name for name in (rows[PLACES.index(y)], columns[PLACES.index(x)]) if name] or ["middle"]
    size = "small" if radius < 0.17 else "large" if radius > 0.24 else None
    # Colour and shape are always said, the rest less often: where every phrase of a batch differs in place or scene,
    # a contrastive model has no reason to look at shapes.
    phrase = write_phrase(
        rng,
        colour,
        shape,
        size if rng.random() < 0.4 else None,
        tilted,
        places if rng.random() < 0.6 else [],
        scene if rng.random() < 0.2 else None,
    )
    return Still(scene, colour, shape, (x, y), radius, degrees, phrase)


def _sample_action_still(
    rng: np.random.Generator, scene: str, colour: str, shape: str, action: str, place: tuple[float, float]
) -> Still:
    """A frame in the course of an event, whose after-images show what happens."""
    size = None if action in SIZE_CHANGES else _pick(rng, SIZES)
    steps = int(rng.integers(MIN_STEPS, 7))
    step = NUM_FRAMES / STEPS / FPS
    event = Event(colour, shape, size, action, 0.0, steps * step)
    seconds = (0.5 + int(rng.integers(1, steps))) * step
    said_size = size if rng.random() < 0.3 else None
    said_scene = scene if rng.random() < 0.2 else None
    phrase = write_action_phrase(rng, colour, shape, said_size, action, said_scene)
    return Still(scene, colour, shape, place, 0.0, 0, phrase, event, seconds)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]
