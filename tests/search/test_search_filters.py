"""Filters: only what passes is searched, and of that all."""

import re
import time
from datetime import date, datetime

import pytest
from paths import REPOSITORY
from search_data import CAPTIONS, synthetic_records

from modeling_glccl.cli import cli
from modeling_glccl.search import VideoIndex, candidates, searcher
from modeling_glccl.search.filters import Filters, NothingPassesError

DAY = 86400 * 10**9


@pytest.fixture(scope="module")
def library(tmp_path_factory, model, processor):
    """2,000 videos; every 2nd of a folder, every 20th of another, one file a day, one second longer each."""
    index = VideoIndex.create(tmp_path_factory.mktemp("filters") / "my.index", model, processor)
    records, start = synthetic_records(2000), int(datetime(2020, 1, 1, 12).timestamp()) * 10**9
    for number, record in enumerate(records):
        folder = "half" if number % 2 else "few%" if number % 20 == 0 else "others_"
        record.path = f"/videos/{folder}/it's {number}.mp4"
        record.mtime_ns, record.size = start + number * DAY, number
        record.duration = 10.0 + number
    index._store.commit(records)
    return index


FILTERS = [
    ({"folder": "/videos/half"}, lambda number: number % 2 == 1),
    ({"folder": "/videos/half/"}, lambda number: number % 2 == 1),
    ({"folder": "/videos/few%"}, lambda number: number % 20 == 0),
    ({"folder": "*/few%/*s 1?.mp4"}, lambda number: False),
    ({"folder": "*/it's 1?0.mp4"}, lambda number: number in range(100, 200, 10)),
    ({"ids": [f"video{number}" for number in range(0, 2000, 3)]}, lambda number: number % 3 == 0),
    ({"ids": "video7"}, lambda number: number == 7),
    ({"since": "2020-01-31"}, lambda number: number >= 30),
    ({"since": date(2020, 1, 11), "until": "2020-01-12"}, lambda number: number in (10, 11)),
    ({"until": datetime(2020, 1, 3)}, lambda number: number <= 1),
    ({"until": "9999-12-31", "min_duration": 1500}, lambda number: number >= 1490),
    ({"max_duration": 15}, lambda number: number <= 5),
    ({"where": "size % 4 = 1 OR size = 2 -- and no more"}, lambda number: number % 4 == 1 or number == 2),
    ({"where": "size < 4 OR size > 1000", "folder": "/videos/half"}, lambda n: n % 2 == 1 and (n < 4 or n > 1000)),
]


@pytest.mark.parametrize(
    ("filters", "passes"), FILTERS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_filters_keep_what_they_say_and_all_of_it_is_searched(library, monkeypatch, filters, passes):
    monkeypatch.setattr(searcher, "EXHAUSTIVE_CLIPS", 100)
    monkeypatch.setattr(candidates, "SHORTLIST", 300)
    kept = {f"video{number}" for number in range(2000) if passes(number)}
    if not kept:
        with pytest.raises(ValueError, match=r"no video passes the filter: folder="):
            library.search(CAPTIONS[0], **filters)
        return
    everything = library.search_batch(CAPTIONS, k=2000, exhaustive=True)  # the naive twin
    found = library.search_batch(CAPTIONS, k=10, **filters)
    common = 0
    for results, complete in zip(found, everything, strict=True):
        expected = [result.video_id for result in complete if result.video_id in kept][:10]
        assert len(results) == len(expected)
        assert {result.video_id for result in results} <= kept
        common += len({result.video_id for result in results} & set(expected)) / len(expected)
    assert common == 4 if len(kept) <= 100 else common >= 3.6
    assert {result.video_id for result in library.search(CAPTIONS[0], k=2000, exhaustive=True, **filters)} == kept


def test_clips_can_be_filtered_too(index):
    index._store.commit(synthetic_records(5, clips=3))
    results = index.search(CAPTIONS[0], where='"start" >= 40')
    assert [result.start for result in results] == [40] * 5


def test_what_passes_a_filter_is_kept_for_the_next_search_alone(library):
    snapshot = library._load().snapshot()
    half, few = "size % 2 = 1", "size % 20 = 0"
    first, second = snapshot.filtered(half), snapshot.filtered(few)
    assert (len(first), len(second), snapshot.filtered(few)) == (1000, 100, second)
    assert first._part is second._part is None  # a part keeps no other

    class Held(tuple):
        def __getitem__(self, place):  # another thread asks for something else in between
            snapshot._part = half, first
            return super().__getitem__(place)

    snapshot._part = Held((few, second))
    assert snapshot.filtered(few) is second


def test_a_condition_about_the_present_is_looked_up_for_every_search():
    for where, changes in (("mtime_ns / 1e9 > to_unixtime(Now())", True), ("path LIKE '%known%'", False)):
        filters = Filters(where=where)
        assert (filters.condition() != filters.condition()) == changes


def test_order_and_lowest_score(library):
    best = library.search(CAPTIONS[0], k=9)
    scores = {result.video_id: result.score for result in best}
    for sort, key in (("date", lambda result: -result.mtime_ns), ("path", lambda result: result.path)):
        results = library.search(CAPTIONS[0], k=9, sort=sort)
        assert results == sorted(results, key=key)
        assert {result.video_id: result.score for result in results} == pytest.approx(scores)
    assert library.search(CAPTIONS[0], k=9, min_score=best[3].score) == best[:4]
    assert library.search(CAPTIONS[0], min_score=1e9) == []


def test_days_are_those_of_this_place(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert Filters(since="1970-01-02").condition() == f"mtime_ns >= {15 * 3600 * 10**9}"
        assert Filters(since="1970-01-02T00:00+00:00").condition() == f"mtime_ns >= {DAY}"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_relative_folder_is_below_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Filters(folder="a_b").condition() == f"path LIKE '{tmp_path}/a_b/%'".replace("_", r"\_")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ids": ["video1", "none"]}, r"my\.index: has no video with the id 'none'"),
        ({"ids": []}, r"no video passes the filter: ids=\[\]"),
        ({"since": "yesterday"}, "since='yesterday': no date such as"),
        ({"until": "2026-13-01"}, "until='2026-13-01': no date"),
        ({"min_duration": float("nan")}, "min_duration=nan"),
        ({"min_duration": 1e9}, r"no video passes the filter: min_duration=1000000000\.0"),
        ({"where": "size >"}, r"my\.index: where='size >': .*Expected: an expression"),
        ({"where": "colour = 'red'"}, "where=.*No field named colour"),
        ({"where": "size"}, "where='size'"),
        ({"where": "1 / 0 = size"}, r"where='1 / 0 = size': .*Divide by zero error$"),
        ({"sort": "size"}, "sort='size' is unknown; use score, date, path"),
    ],
)
def test_wrong_filters_are_named(library, options, problem):
    with pytest.raises(ValueError, match=problem):
        library.search("a dog", **options)


def test_expressions_in_help_and_docs_are_right(library):
    (option,) = (option for option in cli.commands["search"].params if option.name == "where")
    documented = re.findall(r'--where "([^"]+)"', (REPOSITORY / "docs" / "search.md").read_text())
    for where in (*re.findall('"([^"]+)"', option.help), *documented):
        with pytest.raises(NothingPassesError):  # these videos have 2 kB at most
            library.search("a dog", where=where)


def test_an_empty_index_and_an_unknown_filter(index):
    assert index.search("a dog", min_duration=5) == []
    with pytest.raises(TypeError, match="colour"):
        index.search("a dog", colour="red")
