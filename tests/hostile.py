"""What strangers may send to a server: texts that name other files, and a video that never ends."""

import base64
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modeling_glccl import decoding_process_glccl

# What names other files or addresses, as FFmpeg reads it: {port} is one of this machine, {video} a file.
LISTS = {
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXTINF:1,\n{video}\n"
    "#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{video}'\nfile 'tcp://127.0.0.1:{port}'\n",
}
HANGING = b"hang"  # this content keeps a decoding process of `hanging` busy for ever
_HANG = f"""
import av
_open = av.open
def hang(file, **options):
    source = open(file, "rb") if isinstance(file, str) else file
    while source.read(5) == {HANGING!r}:
        source.seek(0)
    source.seek(0)
    return _open(file, **options)
av.open = hang
"""


def hanging(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Makes decoding processes hang on `HANGING`; returns those that are started from now on."""
    started, start = [], decoding_process_glccl._start
    monkeypatch.setattr(decoding_process_glccl, "_COMMAND", _HANG + decoding_process_glccl._COMMAND)
    monkeypatch.setattr(decoding_process_glccl, "_idle", [])
    monkeypatch.setattr(decoding_process_glccl, "_start", lambda: started.append(start()) or started[-1])
    return started


@contextmanager
def nothing_opened(format_: str, video: Path) -> Iterator[bytes]:
    """The text of a list that names a video and an address, neither of which may be opened meanwhile."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        port = server.getsockname()[1]
        yield LISTS[format_].format(port=port, video=video).encode()
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
        datagrams.bind(("127.0.0.1", port))  # nobody else listens there
    for process in decoding_process_glccl._idle:
        files = [file.readlink() for file in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert not [file for file in files if "socket" in str(file) or file == video]


def encoded(content: bytes | Path, **more: str) -> dict[str, str]:
    """A video as an endpoint takes it."""
    content = content.read_bytes() if isinstance(content, Path) else content
    return {"base64": base64.b64encode(content).decode()} | more
