"""Which clips a search looks at: folder, ids, date, duration or any expression, as one SQL condition."""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from os import PathLike
from time import time_ns

from .store import is_in

# Functions of SQL that give something else every time.
_CHANGING = re.compile(r"\b(now|today|current_\w+|random|uuid)\b", re.IGNORECASE)


class NothingPassesError(ValueError):
    """No video passes the filters."""


@dataclass
class Filters:
    """What a clip must fulfil to be found; all of it together."""

    folder: str | PathLike[str] | None = None  # the video lies below it; or a glob that its whole path matches
    ids: str | Iterable[str] | None = None  # of videos
    since: str | date | None = None  # date of the file, or date and time, in local time unless it says otherwise
    until: str | date | None = None  # the same; inclusive, a day without a time to its end
    min_duration: float | None = None  # seconds of the video
    max_duration: float | None = None
    where: str | None = None  # an expression of LanceDB's SQL over the stored columns (docs/search.md)
    without: str | None = None  # id of a video that is left out

    def __post_init__(self):
        if self.ids is not None:
            self.ids = [self.ids] if isinstance(self.ids, str) else list(self.ids)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)

    def condition(self) -> str:
        """In SQL; empty if everything passes. Raises ValueError for a date or a number that is none."""
        parts = []
        if self.folder is not None:
            parts.append(f"path LIKE '{_pattern(os.fspath(self.folder))}'")
        if self.ids is not None:
            parts.append(is_in("video_id", self.ids))
        if self.without is not None:
            parts.append(f"NOT {is_in('video_id', [self.without])}")
        if self.since is not None:
            parts.append(f"mtime_ns >= {_nanoseconds('since', self.since, time.min)}")
        if self.until is not None:
            parts.append(f"mtime_ns <= {_nanoseconds('until', self.until, time.max)}")
        for name, sign in (("min_duration", ">="), ("max_duration", "<=")):
            if (seconds := getattr(self, name)) is not None:
                if not math.isfinite(seconds):
                    raise ValueError(f"{name}={seconds} must be a number of seconds")
                parts.append(f"duration {sign} {float(seconds)}")
        if self.where is not None:
            parts.append(f"({self.where}\n)")  # a line of its own, should it end with a comment
            if _CHANGING.search(self.where):
                parts.append(f"{time_ns()} > 0")  # a condition of its own, as what passes one is kept
        return " AND ".join(parts)


def _pattern(folder: str) -> str:
    """For LIKE: of the files below a folder, or of what a glob of * and ?, which match slashes too, matches."""
    path = folder if folder.startswith("*") else os.path.abspath(folder)
    for character in "\\%_":
        path = path.replace(character, "\\" + character)
    path = path.replace("'", "''")
    if "*" in folder or "?" in folder:
        return path.replace("*", "%").replace("?", "_")
    return path.rstrip("/") + "/%"


def _nanoseconds(name: str, value: str | date, of_a_day: time) -> int:
    """Since 1970, as files have it; of a date without a time at that time of the day."""
    text = str(value)
    try:
        try:
            moment = datetime.combine(date.fromisoformat(text), of_a_day)
        except ValueError:
            moment = datetime.fromisoformat(text)
        return max(-(2**63), min(round(moment.timestamp() * 1e6) * 1000, 2**63 - 1))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}={text!r}: no date such as 2026-05-31, or 2026-05-31T18:30") from error
