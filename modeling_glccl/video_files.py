"""The video files below a folder: the one way in which every command finds them."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

# What people have and FFmpeg reads. Not .webp: FFmpeg does not read animated ones, and stills lie beside videos.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".m2v"),
    *(".vob", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".mxf", ".divx", ".dv", ".gif", ".avif"),
    *(".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf", ".nut", ".y4m"),
)
# Of files that belong to the video of the same name.
SUBTITLE_SUFFIXES = (".srt", ".vtt")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class FoundVideos:
    """What lies below a folder, as sorted paths that begin with that of the folder."""

    folder: str
    videos: list[str] = field(default_factory=list)  # regular files with a suffix of VIDEO_SUFFIXES
    irregular: list[str] = field(default_factory=list)  # pipes, devices, broken links so named: must not be opened
    ignored: list[str] = field(default_factory=list)  # files of other suffixes
    unreadable: list[str] = field(default_factory=list)  # folders

    def notes(self) -> list[str]:
        """A line for the screen about each kind of what was left out."""
        lines = [f"{harmless(folder)}: this folder may not be read and is left out" for folder in self.unreadable]
        if self.ignored:
            suffixes = sorted({os.path.splitext(path)[1].lower() or "none" for path in self.ignored})
            lines.append(f"other files ignored: {len(self.ignored)} (suffixes {', '.join(suffixes[:5])})")
        return lines

    def check(self) -> Self:
        """Itself. Raises ValueError with the accepted suffixes if there is nothing that is called a video."""
        if not self.videos and not self.irregular:
            accepted = ", ".join(VIDEO_SUFFIXES)
            raise ValueError("; ".join([f"{self.folder}: no videos there (suffixes {accepted})", *self.notes()]))
        return self


def walk_files(*folders: str | os.PathLike, on_error: Callable[[OSError], object] | None = None) -> Iterator[str]:
    """Paths below folders, in a fixed order, each folder once, links followed; hidden names are left out."""
    visited = set()
    for folder in folders:
        for root, subfolders, names in os.walk(folder, followlinks=True, onerror=on_error):
            if (real := os.path.realpath(root)) in visited:  # links can lead in circles
                subfolders.clear()
                continue
            visited.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            yield from (os.path.join(root, name) for name in sorted(names) if not name.startswith("."))


def find_videos(folder: str | os.PathLike) -> FoundVideos:
    """The videos of a folder and its sub-folders, if it has any; raises FileNotFoundError if it is no folder."""
    found = FoundVideos(os.fspath(folder))
    if not os.path.isdir(folder):
        file = "is a file, but a folder of videos was expected"
        raise FileNotFoundError(f"{folder}: {file if os.path.exists(folder) else 'no such folder of videos'}")
    for path in sorted(walk_files(folder, on_error=lambda error: found.unreadable.append(error.filename))):
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in (*VIDEO_SUFFIXES, *SUBTITLE_SUFFIXES):
            found.ignored.append(path)
        elif suffix in VIDEO_SUFFIXES:
            (found.irregular if why_no_file(path) else found.videos).append(path)
    return found


def why_no_file(path: str | os.PathLike) -> str | None:
    """Why a path must not be opened, if it is no regular file: reading from it may never begin, or never end."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        return "is not a regular file but a broken link" if os.path.islink(path) else error.strerror or str(error)
    return None if regular else "is not a regular file"


def printable(path: str) -> str:
    """A path as text that any encoding can hold: bytes of a name that are not UTF-8 become \\xe9 and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def harmless(text: str) -> str:
    """Text without what a terminal would obey, or that would turn its lines around: each such character is a space."""
    return _CONTROL.sub(" ", text)
