"""Changes of bytes, texts and JSON trees, each drawn from a random generator."""

import copy
import json
import math
import random
from typing import Any

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
MAGIC = (
    # Lists of other files and network streams, pages in place of files, other formats
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\nfile 'x.mp4'\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXTINF:10,\n/dev/zero\n#EXT-X-ENDLIST\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\xff\xff\xff\xff\x08\x02\0\0\0\0\0\0\0",
    *(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", b"PK\x03\x04", b"\x1f\x8b\x08\0\0\0\0\0", b"RIFF\xff\xff\xff\xffWEBPVP8X"),
    # Pickles that ask for memory or run code, YAML that does or refers to itself, JSON too deep and numbers too long
    *(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"K\x00r\xff\xff\xff\x1f.", b"cos\nsystem\n(S'true'\ntR."),
    *(b"!!python/object/apply:os.system [true]", b"&a [*a]", b"a: &a [x, x]\nb: &b [*a, *a]\n"),
    *(b"[" * 100_000, b'{"a":' * 20_000, b"9" * 5000, b"NaN", b"-Infinity"),
    # Byte order marks, zero, a separator of lines, a lone surrogate
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\xe2\x80\xa8", b"\xed\xa0\x80"),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.5, 1e-30, 1e30, 1e308, 2**31, 2**40, 2**63, 10**30),
    *(math.nan, math.inf, -math.inf),
    *("", " ", "nan", "null", "0", "-1", "1e3", "a cat", "é", "a\u2028b", "\0", "\ud800", "<|endoftext|>", "../../x"),
    *("/etc/passwd", "https://127.0.0.1:9/x", "close tag [/b]", "[", "%s{}", "x" * 100_000),
    *([], {}, [[]], [None], [0], ["a", "b"], {"": None}, {"a": 1}, [1, 2, 3], "\u200b", "\x1b[31m", "\r\n"),
)


def mutate_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """One to three changes of some bytes; `other` may be glued to them, or a part of it put into them."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _change(rng, data, other)
    return data


def _change(rng: random.Random, data: bytes, other: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    block = min(b - a, 1 << rng.randrange(16))
    kind = rng.choice(("flip", "flip", "flip", "number", "number", "cut", "repeat", "drop", "fill", "glue", "magic"))
    if not data:
        return rng.choice(MAGIC)
    if kind == "flip":
        changed = bytearray(data)
        low, high = rng.choice(((0, len(data)), (0, min(512, len(data))), (max(0, len(data) - 512), len(data))))
        for _ in range(1 << rng.randrange(8)):
            changed[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "number":  # lengths and counts stand before or behind names of four letters, and in many headers
        width, order = rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))
        names = [i for i in range(4, len(data) - 8) if data[i : i + 4].isalnum()] if len(data) < 100_000 else []
        place = (
            rng.choice(names) + rng.choice((-4, 4, 8)) if names and rng.random() < 0.5 else rng.randrange(len(data))
        )
        value = (rng.choice(NUMBERS) + rng.choice((0, 0, len(data)))) % 256**width
        return data[:place] + value.to_bytes(width, order) + data[place + width :]
    if kind == "cut":
        return data[:a] if rng.random() < 0.8 else data[a:]
    if kind == "repeat":
        return data[: a + block] + data[a : a + block] * rng.choice((1, 1, 1, 5)) + data[a + block :]
    if kind == "drop":
        return data[:a] + data[a + block :]
    if kind == "fill":
        return data[:a] + rng.choice((b"\0", b"\xff", b" ", rng.randbytes(1))) * block + data[a + block :]
    if kind == "glue":
        return rng.choice((data + other, other + data, data[:a] + other[a:], data[:a] + other + data[a:]))
    return rng.choice((lambda m: m, lambda m: m + data, lambda m: data[:a] + m + data[a:]))(rng.choice(MAGIC))


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of a tree of dicts and lists in which one to three values are odd, gone, doubled, nested or renamed."""
    tree = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [(parent, key) for parent in _parents(tree) for key in _keys(parent)]
        parent, key = rng.choice(places)
        kind = rng.choice(("odd", "odd", "odd", "drop", "copy", "nest", "rename"))
        if kind == "drop" and parent is not tree:
            del parent[key]
        elif kind == "copy":
            parent[key] = copy.deepcopy(rng.choice([p[k] for p, k in places]))
        elif kind == "nest":
            parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, [parent[key]] * 3))
        elif kind == "rename" and isinstance(parent, dict):
            parent[rng.choice(("", "x", f"{key} ", str(key).upper(), "null"))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return tree[0]


def _parents(tree: Any) -> list[Any]:
    children = tree.values() if isinstance(tree, dict) else tree
    return [tree, *(p for child in children if isinstance(child, dict | list) and child for p in _parents(child))]


def _keys(parent: Any) -> list[Any]:
    return list(parent) if isinstance(parent, dict) else list(range(len(parent)))


def mutate_json(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A JSON text with another tree, another encoding, or other bytes."""
    if rng.random() < 0.7:
        return json.dumps(mutate_tree(rng, json.loads(content)), ensure_ascii=True).encode()
    return mutate_text(rng, content, other)


def mutate_text(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Another encoding, other separators or ends of lines, or other bytes."""
    text = content.decode()
    kind = rng.choice(("encoding", "replace", "lines", "bytes", "bytes"))
    if kind == "encoding":
        return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig")), "replace")
    if kind == "replace":
        old = rng.choice((",", "\n", '"', "\t", ":", " ", "a", "1"))
        new = rng.choice((";", "\t", "\r\n", "\r", "", '"', "'", "\u2028", "\0", "é", "nan", "\ufeff", "[/b]"))
        return text.replace(old, new, rng.choice((-1, 1))).encode()
    if kind == "lines":
        lines = text.split("\n")
        place = rng.randrange(len(lines))
        lines[place : place + rng.choice((0, 1))] = rng.choice(
            ([], [""], lines[place : place + 1] * 2, ["a,b,c"], ["{}"])
        )
        return "\n".join(lines).encode()
    return mutate_bytes(rng, content, other)
