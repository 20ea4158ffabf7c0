"""Wording of the shapes benchmark: captions of videos and phrases of single frames."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from .world import Meaning, Mention

T = TypeVar("T")

_SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "ring": ("ring", "hoop"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross",),
    "heart": ("heart",),
    None: ("shape", "thing"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
# Each action as a verb and as a participle.
_ACTION_WORDS: dict[str | None, tuple[tuple[str, str], ...]] = {
    "slide left": (
        ("slides to the left", "sliding to the left"),
        ("moves from right to left", "moving from right to left"),
        ("drifts leftwards", "drifting leftwards"),
    ),
    "slide right": (
        ("slides to the right", "sliding to the right"),
        ("moves from left to right", "moving from left to right"),
        ("drifts rightwards", "drifting rightwards"),
    ),
    "rise": (("rises", "rising"), ("moves up", "moving up"), ("climbs", "climbing")),
    "fall": (("falls", "falling"), ("moves down", "moving down"), ("sinks", "sinking")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger"), ("swells", "swelling")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("dwindles", "dwindling")),
    "spin": (("spins", "spinning"), ("turns around", "turning around"), ("rotates", "rotating")),
    "blink": (("blinks", "blinking"), ("flashes", "flashing"), ("flickers", "flickering")),
    "bounce": (("bounces", "bouncing"), ("hops up and down", "hopping up and down"), ("jumps", "jumping")),
}
SCENE_WORDS = {
    "sea": ("over the sea", "above the waves"),
    "meadow": ("in a meadow", "in the grass"),
    "desert": ("in the desert", "over the dunes"),
    "night": ("at night", "under the stars"),
    "wall": ("in front of a brick wall", "by a brick wall"),
    "snow": ("in the snow", "on a snowy day"),
}
_PLACE_WORDS = {
    "left": ("at the left", "on the left side"),
    "right": ("at the right", "on the right side"),
    "top": ("at the top", "high up"),
    "bottom": ("at the bottom", "low down"),
    "middle": ("in the middle", "in the centre"),
}
# a, b, c, d are events in the order of time: {a} as a clause, {a_ing} as a noun with a participle.
_ORDERED = {
    2: (
        "{a}, then {b}",
        "{a} and then {b}",
        "first {a}, then {b}",
        "first {a}, later {b}",
        "{a}, and after that {b}",
        "{a} before {b}",
        "before {b}, {a}",
        "{b} after {a}",
        "after {a}, {b}",
        "{b}, but first {a}",
        "{a_ing}, followed by {b_ing}",
        "{b_ing}, preceded by {a_ing}",
        "{a_ing} and, later on, {b_ing}",
    ),
    3: (
        "{a}, then {b}, and finally {c}",
        "first {a}, then {b}, then {c}",
        "after {a}, {b} and then {c}",
        "{c}, but first {a} and then {b}",
        "{a_ing}, {b_ing} and {c_ing}, in that order",
    ),
    4: (
        "first {a}, then {b}, then {c}, and finally {d}",
        "after {a}, {b}, then {c} and finally {d}",
        "{a_ing}, {b_ing}, {c_ing} and {d_ing}, in that order",
    ),
}
_UNORDERED = {
    2: ("at some point {a}, at another {b}", "{a_ing} and also {b_ing}", "{a_ing} as well as {b_ing}"),
    3: ("{a_ing}, {b_ing} and {c_ing}, in any order",),
    4: ("{a_ing}, {b_ing}, {c_ing} and {d_ing}, in any order",),
}


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def _noun(rng: np.random.Generator, mention: Mention, adjective: str = "") -> str:
    size = mention.size and pick(rng, _SIZE_WORDS[mention.size])
    words = (size, adjective, mention.colour, pick(rng, _SHAPE_WORDS[mention.shape]))
    return "a " + " ".join(word for word in words if word)


def write_phrase(
    rng: np.random.Generator, mention: Mention, scene: str | None, tilted: bool = False, places: Sequence[str] = ()
) -> str:
    """A phrase for a frame of a shape: in the course of an event, or at rest if the mention has no action."""
    participle = mention.action and pick(rng, _ACTION_WORDS[mention.action])[1]
    words = [_noun(rng, mention, "tilted" if tilted else "")]
    if participle:
        words.append(participle)
    if places:
        words.append(" and ".join(pick(rng, _PLACE_WORDS[place]) for place in places))
    return " ".join(words) + ("" if scene is None else ", " + pick(rng, SCENE_WORDS[scene]))


def write_caption(rng: np.random.Generator, meaning: Meaning, max_words: int) -> str:
    """A sentence of at most `max_words` words and commas that says exactly `meaning`."""
    while True:
        slots = {}
        mentions = list(meaning.mentions)
        if not meaning.ordered:
            rng.shuffle(mentions)
        for name, mention in zip("abcd", mentions, strict=False):
            noun = _noun(rng, mention)
            verb, participle = pick(rng, _ACTION_WORDS[mention.action])
            slots |= {name: f"{noun} {verb}", f"{name}_ing": f"{noun} {participle}"}
        templates = _ORDERED if meaning.ordered else _UNORDERED
        caption = pick(rng, templates[len(mentions)]).format(**slots)
        if meaning.scene is not None:
            scene = pick(rng, SCENE_WORDS[meaning.scene])
            caption = f"{scene}, {caption}" if rng.random() < 0.5 else f"{caption}, {scene}"
        if len(caption.replace(",", " ,").split()) <= max_words:
            return caption
