import errno
import io
import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from benchmark_modules import import_benchmark

from modeling_glccl.data import load_benchmark, shapes
from modeling_glccl.data.shapes import sampler
from modeling_glccl.data.shapes.render import encode_video, render_frames, render_still
from modeling_glccl.data.shapes.sampler import SPLITS, sample_clips, sample_still
from modeling_glccl.data.shapes.world import (
    ACTIONS,
    COLOURS,
    DURATION,
    FPS,
    NUM_FRAMES,
    SCENES,
    SHAPES,
    SIZES,
    SYMMETRY,
    WORLDS,
    Event,
    Meaning,
    Mention,
    relevant_frames,
    satisfies,
)

oracles = import_benchmark("shapes_oracles")
SMALL: dict[str, Any] = {"num_train": 6, "num_validation": 8, "num_test": 10}


@pytest.fixture(scope="module")
def clips():
    return {split: sample_clips(split, count) for split, count in zip(SPLITS, (2000, 120, 200), strict=True)}


def kinds(clip):
    return [(event.colour, event.shape, event.action) for event in clip.events]


# The benchmark in symbols


@pytest.fixture(scope="module")
def worlds():
    return {world: sample_clips("test", 60, world=world) for world in (1, 2)}


def test_no_other_video_of_a_split_and_no_twin_in_train_satisfies_a_caption(clips, worlds):
    twins = [clips["train"][first : first + 4] for first in range(0, 400, 4)]
    for candidates in (clips["validation"], *twins, *worlds.values()):
        for query in candidates:
            answers = [c.video_id for c in candidates if satisfies(c.scene, c.events, query.meaning)]
            assert answers == [query.video_id], query.caption


def read(caption):
    """Reads a caption without the code that wrote it: finds each fact by its words."""

    def find(words, text, default: Any = None) -> Any:
        return next((fact for word, fact in words.items() if re.search(rf"\b(?:{word})\b", text)), default)

    colours = {name: name for name in COLOURS}
    shapes_ = {"circle|disc": "circle", "ring|hoop": "ring", "square|box": "square"}
    shapes_ |= {name: name for name in ("triangle", "star", "cross", "heart")}
    actions = {
        "leftwards|to the left|right to left": "slide left",
        "rightwards|to the right|left to right": "slide right",
        "hops|hopping|bounc.*|jump.*": "bounce",
        "rises|rising|climb.*|(moves|moving) up": "rise",
        "falls|falling|sink.*|(moves|moving) down": "fall",
        "grow.*|bigger|swell.*": "grow",
        "shrink.*|smaller|dwindl.*": "shrink",
        "spin.*|turn.*|rotat.*": "spin",
        "blink.*|flash.*|flicker.*": "blink",
    }
    sizes = {"small|little|tiny": "small", "large|big|huge": "large"}
    scenes = {"sea|waves": "sea", "meadow|grass": "meadow", "desert|dunes": "desert", "night|stars": "night"}
    scene = find(scenes | {"wall": "wall", "snowy?": "snow"}, caption)
    for place in ("in the desert", "in a meadow", "under the stars", "at night", "by a brick wall"):
        caption = caption.replace(place, "")
    parts = re.split(rf"\b(?=a (?:\w+ )?(?:{'|'.join(COLOURS)})\b)", caption)
    mentions = [
        Mention(find(colours, part, "?"), find(shapes_, part), find(sizes, part), find(actions, part, "?"))
        for part in parts[1:]
    ]
    ordered = not re.search("at another|and also|as well as|in any order", caption)
    if re.search("preceded by|but first", caption):
        mentions = mentions[1:] + mentions[:1]
    elif re.search("before", parts[0]):
        mentions = mentions[::-1]
    elif any(re.search(r"(?<!, and )after (?!that)", part) for part in parts[1:]):
        mentions = mentions[1:] + mentions[:1]
    return Meaning(tuple(mentions), ordered, scene)


def test_an_independent_reader_recovers_the_meaning_from_every_caption(clips):
    for clip in clips["train"] + clips["test"]:
        wanted, found = clip.meaning, read(clip.caption)
        if not wanted.ordered:
            wanted, found = (Meaning(tuple(sorted(m.mentions, key=str)), m.ordered, m.scene) for m in (wanted, found))
        assert found == wanted, clip.caption


def test_captions_are_true_partial_and_short(clips):
    for clip in clips["train"] + clips["test"]:
        assert satisfies(clip.scene, clip.events, clip.meaning)
        assert 2 <= len(clip.caption_events) < len(clip.events)
        assert [m.colour for m in clip.meaning.mentions] == [clip.events[i].colour for i in clip.caption_events]
        assert len(clip.caption.replace(",", " ,").split()) <= WORLDS[0].max_words
    assert len({clip.caption for clip in clips["train"]}) > 1930


def test_satisfies_judges_each_attribute_and_the_order():
    first, second = Event("red", "star", "small", "spin", 0, 3), Event("blue", "ring", None, "grow", 3, 6)
    says = (Mention("red", "star", "small", "spin"), Mention("blue", None, None, "grow"))
    assert satisfies("sea", (first, second), Meaning(says, True, "sea"))
    assert not satisfies("sea", (first, second), Meaning(says, True, "wall"))
    assert satisfies("sea", (first, second), Meaning(says, True, "wall"), {"scene"})
    assert not satisfies("sea", (second, first), Meaning(says, True, None))
    assert satisfies("sea", (second, first), Meaning(says, False, None))
    assert satisfies("sea", (second, first), Meaning(says, True, None), {"order"})
    for name, value in (("colour", "green"), ("shape", "heart"), ("size", "large"), ("action", "blink")):
        other = Event(**{**vars(first), name: value})
        assert not satisfies("sea", (other, second), Meaning(says, True, None))
        assert satisfies("sea", (other, second), Meaning(says, True, None), {name})
    # One event cannot play two parts.
    assert not satisfies("sea", (first, second), Meaning((says[0], says[0]), False, None))


def test_each_group_is_a_video_and_its_twins_in_shape_action_and_order(clips):
    groups = {}
    for split in SPLITS:
        for clip in clips[split]:
            groups.setdefault((split, clip.twin_group), []).append(clip)
    for one, *twins in groups.values():
        assert len(twins) == 3
        differences = []
        for twin in twins:
            assert twin.scene == one.scene
            if sorted(kinds(one)) == sorted(kinds(twin)):
                differences.append("order")
                continue
            (a, b) = next((a, b) for a, b in zip(kinds(one), kinds(twin), strict=True) if a != b)
            differences.append("shape" if a[1] != b[1] else "action")
            assert sum(x != y for x, y in zip(a, b, strict=True)) == 1
            assert sum(x != y for x, y in zip(kinds(one), kinds(twin), strict=True)) == 1
        assert differences == ["shape", "action", "order"]


def test_a_judge_of_colours_and_scene_stays_below_30_and_a_perfect_one_gets_100(clips):
    test = clips["test"]
    # even with ties lost: no other video satisfies
    assert oracles.oracle_recall(test, oracles.ORACLES["everything"]) == (100, 100)
    by_chance, ties_lost = oracles.oracle_recall(test, oracles.ORACLES["colours + scene"])
    assert ties_lost == 0
    assert 1 < by_chance < 30
    for name in ("everything but order", "everything but shapes", "everything but actions"):
        assert oracles.oracle_recall(test, oracles.ORACLES[name])[0] < 80, name


def test_splits_have_disjoint_event_combinations_for_every_seed(clips):
    def pairs(some):
        return {frozenset(pair) for clip in some for pair in combinations(kinds(clip), 2)}

    more = (("train", 500, 7), ("validation", 80, 8), ("test", 80, 9))
    for one, two in combinations([pairs(clips[name] + sample_clips(name, *size)) for name, *size in more], 2):
        assert not one & two


def test_train_shows_every_attribute_and_every_kind_of_event(clips):
    assert {event.size for clip in clips["train"] for event in clip.events} == {*SIZES, None}
    assert {clip.scene for clip in clips["train"]} == set(SCENES)
    shown = {kind for clip in clips["train"] for kind in kinds(clip)}
    assert shown == set(sampler.KINDS)
    assert [set(values) for values in zip(*shown, strict=True)] == [set(COLOURS), set(SHAPES), set(ACTIONS)]


def test_sampling_depends_on_the_seed_alone_and_the_first_videos_not_on_how_many_follow():
    for split in SPLITS:
        assert sample_clips(split, 30) == sample_clips(split, 40)[:30]
        assert sample_clips(split, 30) != sample_clips(split, 30, seed=1)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        sample_clips("dev", 1)


def test_every_event_holds_three_of_twelve_uniform_frames(clips):
    uniform = (np.arange(12) + 0.5) * DURATION / 12
    for clip in clips["train"][:300]:
        assert (clip.events[0].start, clip.events[-1].end) == (0, DURATION)
        for index in range(len(clip.events)):
            assert relevant_frames(uniform, clip.events, [index]).sum() >= 3


def test_relevant_frames_are_those_within_the_described_events():
    events = [{"start": start, "end": start + 2} for start in (0.0, 2.0, 4.0)]
    found = relevant_frames([0.0, 1.9, 2.0, 3.9, 4.0, 5.9], events, [0, 2])
    assert found.tolist() == [True, True, False, False, True, True]


# The two worlds of the cross-domain test


def shown_pairs(some):
    return {(event.colour, event.shape) for clip in some for event in clip.events}


def test_world_1_never_shows_a_pair_of_colour_and_shape_that_world_2_shows(worlds):
    first = shown_pairs(worlds[1] + sample_clips("train", 400, world=1) + sample_clips("train", 100, 3, world=1))
    second = shown_pairs(worlds[2] + sample_clips("test", 60, 3, world=2))
    assert not first & second
    assert first | second == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    stills = [sample_still(index, world=1) for index in range(800)]
    drawn = {(still.colour, (still.event or still).shape) for still in stills}
    assert not drawn & second
    assert drawn - {(colour, None) for colour in COLOURS} == first


def test_world_2_has_other_lengths_scenes_and_longer_captions_of_known_words(worlds):
    one, two = worlds[1], worlds[2]
    assert {clip.events[-1].end for clip in one} == {DURATION}
    seconds = [clip.events[-1].end for clip in two]
    assert 4 <= min(seconds) < 10
    assert 30 < max(seconds) <= 40
    for clip in two:
        events = len(clip.events)
        assert (3, 4, 5)[sum(clip.events[-1].end >= 10 * n for n in (1, 2))] <= events <= 6
        twelve = (np.arange(12) + 0.5) * clip.events[-1].end / 12
        assert all(relevant_frames(twelve, clip.events, [index]).any() for index in range(events))
        assert 2 <= len(clip.caption_events) < events
        assert len(clip.caption.replace(",", " ,").split()) <= WORLDS[2].max_words == 38
    assert not {clip.scene for clip in two} & set(SCENES)
    lengths = [np.mean([len(clip.caption.split()) for clip in clips]) for clips in (one, two)]
    assert lengths[1] > 1.4 * lengths[0]
    known = {word for clip in sample_clips("train", 1500, world=1) for word in clip.caption.replace(",", "").split()}
    assert {word for clip in two for word in clip.caption.replace(",", "").split()} <= known


def red(events, scene="night", world=0):
    """Where the frames of a video are red: [T, 64, 64] bool."""
    frames = render_frames(np.random.default_rng(0), scene, events, 64, WORLDS[world])
    return (frames[..., 0] > 195) & (frames[..., 1] < 90) & (frames[..., 2] < 90)


def test_shapes_of_world_2_have_other_sizes_and_speeds():
    def sizes(world, action, size=None):
        shown = red([Event("red", "square", size, action, 0.0, 2.0)], world=world)
        assert len(shown) == 16
        return shown.sum((1, 2))

    assert sizes(2, "fall", "small")[0] < 0.7 * sizes(1, "fall", "small")[0]
    assert sizes(2, "fall", "large")[0] > 1.3 * sizes(1, "fall", "large")[0]
    assert sizes(2, "grow").max() > 1.3 * sizes(1, "grow").max()
    changes = [np.diff(sizes(world, "blink", "small") > 10).sum() for world in (1, 2)]
    assert changes == [3, 5]


# Pixels


def play(action, shape="heart"):
    """Where the shape is in the four uniformly sampled frames of an event of 2 s: [4, H, W] bool."""
    size = None if action in ("grow", "shrink") else "large"
    events = [Event("red", shape, size, action, 0.0, 2.0), Event("blue", "ring", "small", "rise", 2.0, DURATION)]
    return red(events, "sea")[2::4][:4]


def centre(mask):
    return np.array([np.argwhere(frame).mean(0) for frame in mask])


def test_actions_are_readable_from_uniformly_sampled_frames():
    assert (np.diff(centre(play("fall"))[:, 0]) > 3).all()
    assert (np.diff(centre(play("slide right"))[:, 1]) > 3).all()
    assert (np.diff(centre(play("rise"))[:, 0]) < -3).all()
    assert (np.diff(centre(play("slide left"))[:, 1]) < -3).all()
    assert (np.diff(play("grow").sum((1, 2))) > 0).all()
    assert (np.diff(play("shrink").sum((1, 2))) < 0).all()
    assert (play("blink").sum((1, 2)) > 100).tolist() == [True, False, True, False]
    assert (np.diff(centre(play("bounce"))[:, 0]) * [-1, 1, -1] > 20).all()


def test_stills_have_the_asked_size_and_depend_on_the_seed_alone():
    for seed in range(20):
        one, two = (render_still(np.random.default_rng(seed), sample_still(seed), 48) for _ in range(2))
        assert one.shape == (48, 48, 3)
        np.testing.assert_array_equal(one, two)


def test_stills_come_in_groups_that_share_colour_and_scene_and_say_different_things():
    for first in range(0, 400, sampler.STILLS_PER_GROUP):
        group = [sample_still(index) for index in range(first, first + sampler.STILLS_PER_GROUP)]
        assert len({(still.scene, still.colour) for still in group}) == 1
        assert len({(still.shape, still.event and still.event.action) for still in group}) == len(group)


@pytest.mark.parametrize("shape", SYMMETRY)
def test_spinning_shows_between_sampled_frames(shape):
    for a, b in pairwise(play("spin", shape)):
        assert (a ^ b).sum() > 0.08 * a.sum()


def test_blinking_alternates_however_the_event_lies_between_the_sampled_frames():
    for jitter in (-1, 0, 1):
        start = 1.5 + jitter / FPS
        events = [
            Event("blue", "ring", "small", "rise", 0.0, start),
            Event("red", "square", "large", "blink", start, 3.0),
            Event("white", "ring", "small", "rise", 3.0, 6.0),
        ]
        shown = red(events)[2::4][3:6].sum((1, 2)) > 100
        assert shown.tolist() == [True, False, True]


def test_files_are_h264_videos_that_show_what_was_drawn():
    clip = sample_clips("test", 1)[0]
    frames = render_frames(np.random.default_rng(3), clip.scene, clip.events, 64)
    with av.open(io.BytesIO(encode_video(frames)), "r") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == FPS
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert (frames != render_frames(np.random.default_rng(4), clip.scene, clip.events, 64)).any()
    assert decoded.shape == (NUM_FRAMES, 64, 64, 3)
    assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_backgrounds_move_and_are_noisy():
    still = Event("red", "ring", "small", "blink", 0.0, DURATION)
    for scene in SCENES:
        frames = render_frames(np.random.default_rng(0), scene, [still], 64).astype(int)
        assert (np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) > 2).all()


def test_stills_show_what_their_phrase_says():
    stills, actions = [sample_still(index) for index in range(600)], set()
    for still in (still for still in stills if still.event is None and still.shape is not None):
        x, y = still.centre
        assert still.colour in still.phrase
        for words, holds in (
            ("left", x < 0.5),
            ("right", x > 0.5),
            ("top|high up", y < 0.5),
            ("bottom|low down", y > 0.5),
            ("small|little|tiny", still.radius < 0.17),
            ("large|big|huge", still.radius > 0.24),
            ("tilted", still.degrees > 0),
            ("middle|centre", (x, y) == (0.5, 0.5)),
        ):
            if re.search(words, still.phrase):
                assert holds, still.phrase
    assert all(still.phrase.startswith("nothing ") for still in stills if still.shape is None)
    for event, phrase in ((still.event, still.phrase) for still in stills if still.event is not None):
        said = read(phrase).mentions[0]
        assert (said.colour, said.shape, said.action) == (event.colour, event.shape, event.action), phrase
        assert said.size in (None, event.size)
        actions.add(event.action)
    assert actions == set(ACTIONS) - {"blink"}


def test_moving_shapes_leave_after_images_and_resting_ones_do_not():
    place = Event("red", "square", "small", "blink", 0.0, 2.0)
    at_rest = render_frames(np.random.default_rng(0), "night", [place], 64)[2].astype(int)
    moving = render_frames(np.random.default_rng(0), "night", [replace(place, action="slide right")], 64)
    reddish = [(frame[..., 0] - frame[..., 2] > 25).sum() for frame in (at_rest, *moving[6:8].astype(int))]
    assert min(reddish[1:]) > 1.3 * reddish[0]


# Builder


def load(folder: Path, **options: Any) -> Any:
    return load_benchmark("shapes", data_dir=folder, **options)


def test_columns_of_videos(tmp_path):
    test = load(tmp_path, split="test", **SMALL)
    assert len(test) == SMALL["num_test"]
    row, clip = test[0], sample_clips("test", 1)[0]
    assert Path(row["video"]["path"]).stat().st_size > 1000
    assert (row["video_id"], row["caption"], row["scene"]) == ("test_00000", clip.caption, clip.scene)
    assert row["events"] == [vars(event) for event in clip.events]
    assert row["caption_events"] == list(clip.caption_events)
    assert (row["start"], row["end"]) == (None, None)
    assert test["twin_group"] == [0] * 4 + [1] * 4 + [2] * 2


def test_all_splits_and_stills_without_videos(tmp_path):
    videos = load(tmp_path, split=None, with_videos=False, **SMALL)
    assert videos.num_rows == {"train": 6, "validation": 8, "test": 10}
    assert "video" not in videos["test"].column_names
    assert not list(tmp_path.rglob("*.mp4"))
    stills = load(tmp_path, config_name="stills", split="train", num_stills=20)
    assert len(stills) == 20
    assert stills[0]["image"].size == (64, 64)
    assert stills[0]["phrase"]


def test_another_seed_or_size_is_another_dataset(tmp_path):
    options: dict[str, Any] = {"with_videos": False, "num_train": 5, "num_validation": 0}
    one = load(tmp_path, num_test=8, **options)
    assert load(tmp_path, num_test=8, seed=1, **options)["caption"] != one["caption"]
    assert load(tmp_path, num_test=16, **options)["caption"][:8] == list(one["caption"])


def test_an_interrupted_render_goes_on_where_it_stopped_and_is_then_reused(tmp_path, monkeypatch, capsys):
    encoded, total, stop = [], sum(SMALL.values()), 7

    def encode(frames):
        if len(encoded) == stop:
            raise KeyboardInterrupt
        encoded.append(frames)
        return encode_video(frames)

    monkeypatch.setattr(shapes, "encode_video", encode)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, split=None, **SMALL)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(finished) == 7

    stop = None
    capsys.readouterr()
    load(tmp_path, split=None, **SMALL)
    assert len(encoded) == total
    assert f"{total}/{total}" in capsys.readouterr().err  # one bar over all splits, what was there included
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    test = load(tmp_path, split=None, **SMALL)["test"]
    assert len(encoded) == total
    assert "rendering" not in capsys.readouterr().err

    Path(test[3]["video"]["path"]).unlink()
    load(tmp_path, split=None, **SMALL)
    assert len(encoded) == total + 1
    assert Path(test[3]["video"]["path"]).exists()


def test_interrupted_stills_go_on_after_the_last_whole_file(tmp_path, monkeypatch, capsys):
    rendered, stop = [], 13

    def render(rng, still, image_size):
        if len(rendered) == stop:
            raise KeyboardInterrupt
        rendered.append(still)
        return render_still(rng, still, image_size)

    def stills(folder, **options):
        return load(folder, config_name="stills", num_stills=20, image_size=32, **options)

    whole = stills(tmp_path / "whole", split="train")
    monkeypatch.setattr(shapes, "render_still", render)
    monkeypatch.setattr(shapes, "_STILLS_PER_FILE", 8)
    with pytest.raises(KeyboardInterrupt):
        stills(tmp_path / "parts", split="train")
    stop = None
    capsys.readouterr()
    parts = stills(tmp_path / "parts", split="train")
    assert len(rendered) == 13 + 12
    assert "20/20" in capsys.readouterr().err  # one bar over all, what was there included
    both = stills(tmp_path / "both", split=None, num_proc=2)["train"]
    for found in (parts, both):
        assert found["phrase"] == whole["phrase"]
        assert [np.asarray(image).tolist() for image in found["image"]] == [
            np.asarray(image).tolist() for image in whole["image"]
        ]
    capsys.readouterr()
    assert stills(tmp_path / "parts", split="train")["phrase"] == whole["phrase"]
    assert len(rendered) == 25
    assert "rendering" not in capsys.readouterr().err


def test_only_the_asked_split_is_rendered_and_its_files_do_not_depend_on_the_others(tmp_path):
    asked = load(tmp_path / "asked", num_proc=2, **{**SMALL, "num_test": 6})
    assert {path.parent.name for path in (tmp_path / "asked").rglob("*.mp4")} == {"test"}
    alone = load(tmp_path / "alone", num_train=0, num_validation=0, num_test=6)
    for test in (load(tmp_path / "all", split=None, **SMALL)["test"], asked, alone):
        for number, clip in enumerate(sample_clips("test", 6)):
            rng = np.random.default_rng([1, 0, SPLITS.index("test"), number])
            expected = encode_video(render_frames(rng, clip.scene, clip.events, 64))
            assert Path(test[number]["video"]["path"]).read_bytes() == expected


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", Mock(side_effect=full))
    with pytest.raises(OSError, match=r"test_00000\.mp4 \(No space left on device\).*data_dir") as failure:
        load(tmp_path, **SMALL)
    assert failure.value.errno == errno.ENOSPC
    assert not [path for path in tmp_path.rglob("*") if ".mp4" in path.name]


def test_the_second_world_is_rendered_beside_the_first_the_same_every_time(tmp_path):
    one, two, again = (load(tmp_path / folder, num_test=3, world=2) for folder in ("a", "b", "b"))
    load(tmp_path / "a", num_test=3, world=1, num_train=0, num_validation=0)
    for rows in zip(one, two, again, strict=True):
        assert len({Path(row["video"]["path"]).read_bytes() for row in rows}) == 1
        assert len({row["caption"] for row in rows}) == 1
    assert {path.parent.parent.name[-6:] for path in (tmp_path / "a").rglob("*.mp4")} == {"world1", "world2"}
    with av.open(one[0]["video"]["path"]) as container:
        assert container.streams.video[0].frames == one[0]["events"][-1]["end"] * FPS


def test_wrong_arguments_are_refused_before_anything_is_rendered(tmp_path):
    for arguments, message in (
        ({"name": "shape"}, "did you mean shapes"),
        ({"split": "tset"}, "'tset'.*validation"),
        ({"num_trian": 3}, "num_trian.*num_train"),
        ({"repo_id": "someone/shapes"}, "leave repo_id out"),
        ({"missing": "ignore"}, "'error' or 'skip'"),
        ({"image_size": 50}, "multiple of 16"),
        ({"image_size": 1_000_000}, "at most 2048"),
        ({"world": 3}, "world=3 must be 0, 1 or 2"),
        ({"world": 2, "split": "train"}, "'train' must be one of test"),
        ({"world": 2, "config_name": "stills", "split": "train"}, "world=2.*no stills"),
        ({"num_stills": 0, "config_name": "stills", "split": "train"}, "num_stills=0 must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            load_benchmark(**{"name": "shapes", "data_dir": tmp_path, **SMALL, **arguments})
    assert not list(tmp_path.iterdir())
