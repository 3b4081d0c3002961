"""Hostile input from a seed: recipes, prompts, images, archives, requests over HTTP and answers of a server."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from typing import Any

import yaml

_DEEP = 3000
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    float("inf"),
    float("nan"),
    10**4000,
    2**63,
    "",
    "\u202e",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"a": {"b": 1}},
    ["a"] * 1000,
    "../../etc/passwd",
    "/dev/zero",
    "`",
    "{{ 1 }}",
    b"\x00\xff",
    "\ud800",
)
_TEXTS = (
    "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c]\n"
    "e: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f]\n",
    "name: " + "[" * _DEEP + "]" * _DEEP,
    "a: {" * _DEEP,
    "- " * _DEEP + "x",
    "name: x\nname: y\n",
    "!!python/object:os.system x",
    "name: !!python/name:os.system ''",
    "seed: " + "9" * 5000,
    "seed: .inf",
    "seed: 1e400",
    "\x00",
    "\ufeffname: x\n",
    "---\nname: a\n---\nname: b\n",
    "a: &a {b: *a}\n",
    "<<: [1]\n",
    "? [a, b]\n: c\n",
    "seed: 0x" + "f" * 3000,
    "name: 2026-13-45\n",
    "%YAML 9.9\n---\na: b\n",
    "\t\ta: b",
    "'",
    "a: |\n  x\n b: c\n",
    'name: "\\ud800"\n',
    "seed: 1:2:3:4:5:6:7:8\n",
)


def recipe(draw: random.Random, whole: dict[str, Any]) -> bytes:
    """A recipe that is none: an odd text of its own, or a whole one with odd values, keys or bytes."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice(_TEXTS).encode("utf-8", "surrogatepass")
    tree = copy.deepcopy(whole)
    for _ in range(draw.randint(1, 3)):
        _harm(draw, tree)
    try:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        text = json.dumps(tree, default=str)
    data = text.encode("utf-8", "surrogatepass")
    if kind == 1:
        return _bytes(draw, data)
    return data + draw.choice(_TEXTS).encode("utf-8", "surrogatepass") if kind == 2 else data


def _harm(draw: random.Random, tree: Any) -> None:
    """One leaf or key somewhere in the tree becomes another."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = draw.choice(keys)
        below = node[key]
        if isinstance(below, dict | list) and below and draw.random() < 0.8:
            node = below
            continue
        if isinstance(node, dict) and draw.random() < 0.3:
            node[draw.choice(["", "x" * 5000, "rolout", "__class__", "0"])] = node.pop(key)
        else:
            node[key] = copy.deepcopy(draw.choice(_VALUES))
        return


def _bytes(draw: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out or put in."""
    harmed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(harmed) + 1)
        match draw.randrange(4):
            case 0 if place < len(harmed):
                harmed[place] ^= 1 << draw.randrange(8)
            case 1:
                harmed[place:place] = draw.randbytes(draw.randint(1, 40))
            case 2:
                del harmed[place : place + draw.randint(1, 200)]
            case 3:
                del harmed[max(place, 1) :]
        if not harmed:
            return b""
    return bytes(harmed)


_PROMPTS = (
    "{% for a in range(999999999) %}{{ a }}{% endfor %}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ question * 10 ** 9 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ question.__init__.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ nothing.at.all }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{",
    "{% if %}",
    "{{ [1] * 10 ** 9 }}",
    "{{ range(10 ** 12) | list }}",
    "{{ 'a' | center(10 ** 9) }}",
    "{{ 9 ** 9 ** 9 }}",
    "",
    " ",
    "{{ choices | map(attribute='x') | list }}",
    "{{ question | format(1) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ question }}" * 20000,
    "{% set x = namespace(v='a') %}{% for i in range(99) %}{% set x.v = x.v + x.v %}{% endfor %}{{ x.v }}",
    "{{ cycler }}{{ joiner }}{{ lipsum(10 ** 6) }}",
    "{% raw %}{{ question }}{% endraw %}",
    "{% extends question %}",
    "\x00{{ question }}",
    "{{ question | replace('', 'x' * 10 ** 6) }}",
    "{{ dict(a=question)['b'] }}",
    "{{ (question,) * 10 ** 8 }}",
    "{{ self }}",
)


def prompt(draw: random.Random) -> bytes:
    """A template that does harm, or one with harmed bytes."""
    text = draw.choice(_PROMPTS).encode()
    return _bytes(draw, text) if text and draw.random() < 0.3 else text


def image(draw: random.Random) -> bytes:
    """Bytes in the name of an image."""
    from PIL import Image

    kind = draw.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM"])
    buffer = io.BytesIO()
    Image.new("RGB", (draw.randint(1, 60), draw.randint(1, 60)), 3).save(buffer, kind)
    match draw.randrange(4):
        case 0:
            return _png(draw)
        case 1:
            return draw.choice(
                [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"%PDF-1.4", draw.randbytes(300), b"GIF89a" + b"\xff" * 9]
            )
        case _:
            return _bytes(draw, buffer.getvalue())


def _png(draw: random.Random) -> bytes:
    """A PNG whose header or texts promise more than any memory holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width, height = draw.choice([(2**31 - 1, 2**31 - 1), (60000, 60000), (0, 5), (5, 2**31), (7000, 7000)])
    head = chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, draw.choice([1, 8, 16]), draw.choice([0, 2, 3, 6]), 0, 0, 0)
    )
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(draw.choice([10, 10**7]))))
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def archive(draw: random.Random, names: list[str], data: bytes) -> bytes:
    """A zip with these members that is a bomb, lies about itself, leaves its folder, or is broken."""
    buffer, kind = io.BytesIO(), draw.randrange(6)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name in names:
            content = bytes(30 * 2**20) if kind == 0 else data
            made.writestr({1: "../" * 4 + name, 2: "/" + name}.get(kind, name), content)
        if kind == 3:
            made.writestr("x" * 5000, b"")
    whole = buffer.getvalue()
    return _bytes(draw, whole) if kind in (3, 4) else whole[: draw.randrange(len(whole))] if kind == 5 else whole


def request(draw: random.Random) -> bytes:
    """The bytes of a request to `POST /score`, of which a part is not as HTTP, JSON or the rows should be."""
    row: dict[str, Any] = {"question": "How many?", "steps": ["One.", "Two."], "images": [], "choices": []}
    for _ in range(draw.randint(0, 2)):
        row[draw.choice([*row, "more"])] = copy.deepcopy(draw.choice([v for v in _VALUES if not isinstance(v, bytes)]))
    rows: Any = draw.choice([row, [row] * draw.choice([1, 3, 2000]), [], None, [[row]], "x", {"rows": row}])
    body = draw.choice(
        [
            *[json.dumps(rows, default=str).encode("utf-8", "replace")] * 7,
            b"[" * 100_000,
            b"{",
            b"\xff\xfe",
            b'{"question": NaN}',
            b"",
            b'{"a":' * 2000 + b"1" + b"}" * 2000,
            b"9" * 6000,
        ]
    )
    if draw.random() < 0.3 and body:
        body = _bytes(draw, body)
    length: Any = draw.choice([len(body)] * 5 + [0, -1, 10**12, "x", len(body) + 50])
    head = draw.choice(
        ["POST /score HTTP/1.1"] * 6 + ["GET /score HTTP/1.1", "POST /score HTTP/9", "X", "POST /../etc HTTP/1.1"]
    )
    host = draw.choice(["127.0.0.1"] * 5 + ["evil.example", "", "x" * 9000])
    extra = draw.choice(
        ["", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n", "Expect: 100-continue\r\n", "A" * 70_000]
    )
    kind = draw.choice(["application/json"] * 7 + ["text/plain", "application/json; charset=utf-16"])
    lines = [head, f"Host: {host}", f"{extra}Content-Type: {kind}", f"Content-Length: {length}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answer(draw: random.Random, good: dict[str, Any]) -> tuple[int, bytes]:
    """(status, body) in place of a good answer; never one that could be taken for a good answer with another text."""
    tree = copy.deepcopy(good)
    match draw.randrange(8):
        case 0:
            return draw.choice([400, 404, 413, 429, 500, 503, 302]), draw.choice(
                [b"", b"{}", b'{"error": {"message": "no"}}', b"<html>" * 999]
            )
        case 1:
            return 200, draw.choice(
                [b"", b"null", b"[]", b"{", b"\xff", b"[" * 50_000, b'{"choices": []}', b'{"error": "out of memory"}']
            )
        case 2:
            tree["usage"]["prompt_tokens"] = draw.choice([2**70, -5])
        case 3:
            tree["choices"][0]["token_ids"] = draw.choice([[2**40] * 3, [-1], ["a"], 7])
        case 4:
            tree["choices"] = tree["choices"] * 3
        case 5:
            tree["choices"][0]["message"]["content"] = draw.choice([7, {"a": 1}, "\ud800"])
        case 6:
            tree["choices"][0]["finish_reason"] = draw.choice(["abort", "error", 5])
        case 7:
            text = json.dumps(tree)
            return 200, text[: draw.randrange(len(text) - 1)].encode()
    return 200, json.dumps(tree).encode()
