"""Image folders and archives that would lead out, or unpack to more than they say."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import stat
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import RowError, UserError
from curate.sources import roots
from curate.sources.roots import Archive, open_root

REAL = b"the image" * 100


@pytest.fixture
def place(tmp_path):
    """An image folder, and a secret beside it."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(REAL)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "round").symlink_to("round")
    os.mkfifo(folder / "pipe.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(roots.LARGEST + 1)
    return folder


LEADS_OUT = [
    "../secret.png",
    "deep/../../secret.png",
    "out.png",
    "up/secret.png",
    "/etc/passwd",
    "//etc/passwd",
    "deep/../../../../../../../../etc/passwd",
]
IS_NONE = ["round", "pipe.png", "deep", "a\0b", "\ud800", "", ".", "x" * 5000, "sparse.png", "deep/a.png/x"]


@pytest.mark.parametrize("name", LEADS_OUT)
def test_nothing_outside_of_a_folder_is_read(place, name):
    with pytest.raises(RowError) as caught:
        open_root(place).read(name)
    assert caught.value.reason == "image-outside-root"


@pytest.mark.parametrize("name", IS_NONE)
def test_what_is_no_image_file_is_one_row_s_failure(place, name):
    with pytest.raises(RowError) as caught:
        open_root(place).read(name)
    str(caught.value).encode()


@given(st.text(max_size=20) | st.sampled_from([*LEADS_OUT, *IS_NONE]))
def test_no_name_reads_more_than_the_members(name):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as made:
        made.writestr("top/a.png", REAL)
        made.writestr("../evil.png", b"evil")
        made.writestr("/abs.png", b"abs")
    archive = Archive(sink)
    try:
        assert archive.read(name) == REAL
    except RowError as error:
        str(error).encode()


def test_members_are_read_by_their_own_names_only():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("top/a.png", REAL)
        link = zipfile.ZipInfo("top/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
        made.writestr("top/empty.png", b"")
    archive = Archive(sink)
    assert archive.read("a.png") == archive.read("top/a.png") == REAL
    assert archive.read("link.png") == b"/etc/passwd"
    assert archive.read("empty.png") == b""
    for name in ("../a.png", "top/../../a.png", "/top/a.png"):
        with pytest.raises(RowError):
            archive.read(name)


def claiming(data: bytes, size: int, packed: int = zipfile.ZIP_DEFLATED) -> Archive:
    """An archive of one member with this content, of which it says another size."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", packed) as made:
        made.writestr("a.png", data)
    changed = bytearray(sink.getvalue())
    entry = changed.rindex(b"PK\x01\x02")
    changed[22:26] = changed[entry + 24 : entry + 28] = struct.pack("<I", size)
    return Archive(io.BytesIO(changed))


@pytest.mark.parametrize("size", [0, 1, 1000, 2**20])
def test_a_member_that_unpacks_to_more_than_it_says_takes_no_memory(size):
    archive = claiming(b"\0" * 2**28, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RowError) as caught:
        archive.read("a.png")
    assert caught.value.reason == "image-unreadable"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_member_that_says_too_much_is_not_read():
    for size, reason in ((len(REAL) + 1, "image-unreadable"), (roots.LARGEST + 1, "image-too-large")):
        with pytest.raises(RowError) as caught:
            claiming(REAL, size).read("a.png")
        assert caught.value.reason == reason


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_without_a_bound_are_refused(packed):
    with pytest.raises(RowError, match="packed in a way"):
        claiming(REAL, len(REAL), packed).read("a.png")


@given(st.data())
def test_a_damaged_archive_gives_the_image_or_a_row_error(data):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", REAL)
    changed = bytearray(sink.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = io.BytesIO(changed)
    path.name = "damaged.zip"
    with contextlib.suppress(RowError, UserError):
        assert Archive(path).read("a.png") == REAL
