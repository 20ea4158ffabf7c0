"""Draws the videos of the shapes benchmark in symbols: disjoint event combinations, groups of hard twins."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np

from .wording import SCENE_WORDS, pick, write_caption, write_phrase
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
    UNSEEN_PAIRS,
    WORLDS,
    Clip,
    Event,
    Meaning,
    Mention,
    Still,
    World,
    satisfies,
)

SPLITS = ("train", "validation", "test")
# Events are laid out in twelfths of the video, so that any 12 uniformly sampled frames hold at least three of each;
# two where there are more than four events.
STEPS = 12
MIN_STEPS = 3
# In what the second, third and fourth video of a group differ from the first.
TWINS = ("shape", "action", "order")
STILLS_PER_GROUP = 8
# A single frame of a blinking shape shows nothing of it.
STILL_ACTIONS = tuple(action for action in ACTIONS if action != "blink")

KINDS = tuple(kind for kind in product(COLOURS, SHAPES, ACTIONS) if kind[1] in SYMMETRY or kind[2] != "spin")
COLOUR, SHAPE, ACTION = range(3)
_KIND_NAMES = np.array(KINDS)


def sample_clips(split: str, count: int, seed: int = 0, world: int = 0) -> list[Clip]:
    """The first `count` videos of a split in symbols, in one of `WORLDS`.

    Videos come in groups of four (the last group may be cut short): one and its three hard twins, which have its
    colours, scene and events but for the shape of one event, the action of another, or the order of these two. No
    other video of the split satisfies a caption in validation and test, no twin in train.

    Raises:
        ValueError: unknown split, negative count or seed.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the shapes benchmark has {', '.join(SPLITS)}")
    if count < 0 or seed < 0:
        raise ValueError(f"count={count} and seed={seed} must not be negative")
    # Each unordered pair of event kinds belongs to one split, whatever the seed and size, so that the training set of
    # one seed never shows an event combination of the test set of another.
    owner = np.random.default_rng(2605_17959).choice(3, p=[0.5, 0.25, 0.25], size=(len(KINDS),) * 2)
    owned = np.triu(owner) + np.triu(owner, 1).T == SPLITS.index(split)
    if WORLDS[world].pairs == UNSEEN_PAIRS:
        owned[:] = True  # nothing is trained there, and few combinations are left
    shown = np.array([kind[:2] in WORLDS[world].pairs for kind in KINDS])
    owned &= shown & shown[:, None]
    clips: list[Clip] = []
    while len(clips) < count:
        clips += _sample_group(split, seed, world, owned, clips)
    return clips[:count]


def _sample_group(split: str, seed: int, world: int, owned: np.ndarray, earlier: list[Clip]) -> list[Clip]:
    """One group of twins that goes with the `earlier` ones."""
    group = len(earlier) // 4
    for attempt in range(1000):
        rng = np.random.default_rng([0, seed, SPLITS.index(split), group, attempt, *[world] * bool(world)])
        scene = pick(rng, WORLDS[world].scenes)
        videos, about = _sample_videos(rng, WORLDS[world], owned)
        new = []
        for events in videos:
            others = [other for other in videos if other is not events]
            meaning = _sample_meaning(rng, scene, events, about, others, WORLDS[world].size_share)
            if meaning is None:
                break
            video_id = f"{split}_{len(earlier) + len(new):05d}"
            caption = write_caption(rng, meaning, WORLDS[world].max_words)
            new.append(Clip(video_id, group, scene, events, meaning, about, caption))
        else:
            if split == "train" or not any(
                satisfies(a.scene, a.events, b.meaning) or satisfies(b.scene, b.events, a.meaning)
                for a in new
                for b in earlier
            ):
                return new
    raise ValueError(f"found no unambiguous videos for twin group {group} of {split}: ask for fewer videos")


def _sample_videos(
    rng: np.random.Generator, world: World, owned: np.ndarray
) -> tuple[list[tuple[Event, ...]], tuple[int, ...]]:
    """The events of each video of a group, and the indices of the events that the captions are about."""
    num_frames = pick(rng, world.num_frames)
    num_events = int(rng.integers(3, 5)) + min(2, num_frames // (10 * FPS))  # a longer video shows more
    num_about = 2
    while num_about < min(num_events - 1, world.most_mentions) and rng.random() < world.mention_share:
        num_about += 1
    first, second, *rest = (int(index) for index in rng.permutation(num_events)[:num_about])
    varied = {first: SHAPE, second: ACTION}
    kinds = None
    while kinds is None:
        kinds = _sample_kinds(rng, owned, [varied.get(index) for index in range(num_events)])
    sizes = [pick(rng, SIZES) for _ in range(num_events)]
    # Jittered by less than would move a uniformly sampled frame.
    least = min(MIN_STEPS, STEPS // num_events)
    spare = rng.multinomial(STEPS - least * num_events, np.full(num_events, 1 / num_events))
    ends = np.cumsum(least + spare) * (num_frames // STEPS)
    ends[:-1] += rng.integers(-1, 2, num_events - 1)
    spans = list(pairwise([0.0, *(ends / FPS).tolist()]))
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
    free = owned.any(axis=0)
    chosen = []
    for field in varied:
        if not free.any():
            return None
        kinds = [int(rng.choice(np.flatnonzero(free)))]
        same = _KIND_NAMES[kinds[0]] == _KIND_NAMES
        if field is not None:
            twins = free & ~same[:, field] & (same.sum(axis=1) == 2)
            if not twins.any():
                return None
            kinds.append(int(rng.choice(np.flatnonzero(twins))))
        free &= owned[kinds].all(0) & ~same[:, COLOUR]
        chosen.append([KINDS[index] for index in kinds])
    return chosen


def _sample_meaning(
    rng: np.random.Generator,
    scene: str,
    events: tuple[Event, ...],
    about: tuple[int, ...],
    others: list[tuple[Event, ...]],
    size_share: float,
) -> Meaning | None:
    """A partial description of a video that none of its twins satisfies; None if chance finds none."""
    for _ in range(50):
        mentions = []
        for event in (events[index] for index in about):
            shape = event.shape if rng.random() < 0.9 else None
            size = event.size if rng.random() < size_share else None
            mentions.append(Mention(event.colour, shape, size, event.action))
        ordered, named = bool(rng.random() < 0.9), rng.random() < 0.5 and scene in SCENE_WORDS
        meaning = Meaning(tuple(mentions), ordered, scene if named else None)
        if not any(satisfies(scene, other, meaning) for other in others):
            return meaning
    return None


def sample_still(index: int, seed: int = 0, world: int = 0) -> Still:
    """A frame with a phrase for image-text pre-training, in any size that a video can show; world 2 has none.

    Stills come in groups of `STILLS_PER_GROUP` twins of the same colour before the same scene: of what differs within
    a batch a contrastive model learns to read only what it needs, and colours would do among random frames.
    """
    group, member = divmod(index, STILLS_PER_GROUP)
    shared, rng = np.random.default_rng([3, seed, group]), np.random.default_rng([4, seed, index])
    scene, colour = pick(shared, SCENES), pick(shared, COLOURS)
    shapes = [shape for shape in shared.permutation(SHAPES).tolist() if (colour, shape) in WORLDS[world].pairs]
    if shared.random() < 0.4:
        return _sample_resting_still(rng, scene, colour, [*shapes, None][member % (len(shapes) + 1)])
    shape, action = shapes[0], STILL_ACTIONS[member]
    if action == "spin" and shape not in SYMMETRY:
        return _sample_resting_still(rng, scene, colour, shape)
    # In the course of an event, whose after-images show what happens.
    place = pick(shared, PLACES), pick(shared, PLACES)
    size = None if action in SIZE_CHANGES else pick(rng, SIZES)
    steps = int(rng.integers(MIN_STEPS, 7))
    step = NUM_FRAMES / STEPS / FPS
    event = Event(colour, shape, size, action, 0.0, steps * step)
    seconds = (0.5 + int(rng.integers(1, steps))) * step
    mention = Mention(colour, shape, size if rng.random() < 0.3 else None, action)
    phrase = write_phrase(rng, mention, scene if rng.random() < 0.2 else None)
    return Still(scene, colour, shape, place, 0.0, 0, phrase, event, seconds)


def _sample_resting_still(rng: np.random.Generator, scene: str, colour: str, shape: str | None) -> Still:
    """A frame of a shape at rest, or of the scene alone."""
    x, y = pick(rng, PLACES), pick(rng, PLACES)
    radius = float(rng.uniform(*CHANGING_RADIUS))
    if shape is None:
        return Still(scene, colour, None, (x, y), radius, 0, f"nothing {pick(rng, SCENE_WORDS[scene])}")
    tilted = shape in SYMMETRY and rng.random() < 0.3
    degrees = round(SYMMETRY[shape] * rng.uniform(0.2, 0.8)) if tilted else 0
    rows, columns = ("top", None, "bottom"), ("left", None, "right")
    places = [name for name in (rows[PLACES.index(y)], columns[PLACES.index(x)]) if name] or ["middle"]
    size = "small" if radius < 0.17 else "large" if radius > 0.24 else None
    # Colour and shape are always said, the rest less often: where every phrase of a batch differs in place or scene,
    # a contrastive model has no reason to look at shapes.
    mention = Mention(colour, shape, size if rng.random() < 0.4 else None, None)
    places = places if rng.random() < 0.6 else []
    phrase = write_phrase(rng, mention, scene if rng.random() < 0.2 else None, tilted, places)
    return Still(scene, colour, shape, (x, y), radius, degrees, phrase)
