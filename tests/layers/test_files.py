"""Files: what a read or an atomic write does when the file system does not play along."""

import errno
import os
import re
import socket
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import file_size_limit

from modelvault import _files
from modelvault.errors import FileError


def refused(words: str) -> Any:
    return pytest.raises(FileError, match=rf"^{re.escape(words)}$")


def test_paths_that_are_not_utf_8_are_readable() -> None:
    assert _files.readable(Path(os.fsdecode(b"a/\xc3\xa9\xff"))) == "a/é\\udcff"


def test_reasons_are_the_system_s_words() -> None:
    assert _files.reason(OSError(errno.ENOENT, "No such file or directory")) == "no such file or directory"
    assert _files.reason(OSError("odd")) == "oserror"


def test_a_read_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with refused(f"{path}: no such file or directory"):
        _files.read_bytes(path, limit=10)
    path.write_bytes(bytes(10))
    assert _files.read_bytes(path, limit=10) == bytes(10)
    with refused(f"{path}: larger than the limit of 9 bytes"):
        _files.read_bytes(path, limit=9)
    with refused(f"{tmp_path}: not a regular file"):
        _files.read_bytes(tmp_path, limit=9)


def test_refused_files_are_closed_again(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(FileError):
            _files.open_regular(tmp_path)
        with pytest.raises(FileError):
            _files.open_inside(tmp_path, "a/b")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_opened_files_do_not_pass_to_programs(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    for descriptor in (_files.open_regular(tmp_path / "f"), _files.open_inside(tmp_path, "f")):
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_ranges_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    descriptor = _files.open_regular(tmp_path / "f")
    try:
        assert _files.read_rest(descriptor, 4, 3) == b"3456"
        assert _files.read_rest(descriptor, 0, 99) == b""
        buffer = bytearray(b"----------")
        _files.read_into(descriptor, memoryview(buffer)[2:5], 7)
        assert buffer == b"--789-----"
        with refused("file ended at byte 10 while it was being read"):
            _files.read_rest(descriptor, 5, 8)
    finally:
        os.close(descriptor)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:3]], at))
    descriptor = _files.open_regular(tmp_path / "f")
    try:
        assert _files.read_rest(descriptor, 8, 1) == b"12345678"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("", "empty path"),
        ("a\\b", r"'a\\b': backslash or NUL in a path"),
        ("a\0", r"'a\x00': backslash or NUL in a path"),
        ("/a", "'/a': absolute path"),
        ("c:a", "'c:a': absolute path"),
        ("c:", "'c:': absolute path"),
        ("a/../b", "'a/../b': path leaves its folder through '..'"),
        (".", "'.': names no file"),
        ("./", "'./': names no file"),
    ],
)
def test_places_outside_a_folder(location: str, words: str) -> None:
    with refused(words):
        _files.split_inside(location)


def test_places_inside_a_folder(tmp_path: Path) -> None:
    assert _files.split_inside("a/./b//c") == ("a", "b", "c")
    assert _files.split_inside("a") == ("a",)
    assert _files.split_inside("ab:c") == ("ab:c",)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"deep")
    with open(_files.open_inside(tmp_path, "a/b/c"), "rb") as file:
        assert file.read() == b"deep"
    with refused("a/none/c: no such file or directory"):
        _files.open_inside(tmp_path, "a/none/c")
    with refused("a/b/c/d: is a symbolic link"):  # or a file where a folder should be: the system says the same
        _files.open_inside(tmp_path, "a/b/c/d")
    with refused(f"{tmp_path / 'none'}: no such file or directory"):
        _files.open_inside(tmp_path / "none", "a")
    with refused("b: not a regular file"):
        _files.open_inside(tmp_path / "a", "b")
    with refused(f"{tmp_path / 'a/b/c'}: not a directory"):
        _files.open_inside(tmp_path / "a" / "b" / "c", "d")
    with pytest.raises(NotADirectoryError):
        _files.sync_folder(tmp_path / "a" / "b" / "c")


def test_links_and_pipes_inside_a_folder(tmp_path: Path) -> None:
    """A link is never followed, to a file or a folder; a pipe that nobody writes to is never waited for."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to("real/file")
    os.mkfifo(tmp_path / "pipe")
    for location in ("folder/file", "link", "pipe/x"):
        with refused(f"{location}: is a symbolic link"):
            _files.open_inside(tmp_path, location)
    with refused("pipe: not a regular file"):
        _files.open_inside(tmp_path, "pipe")
    with refused(f"{tmp_path / 'pipe'}: not a regular file"):
        _files.read_bytes(tmp_path / "pipe", limit=9)


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        with refused(f"{tmp_path / 'f'}: larger than the limit of 100 bytes"):
            _files.read_bytes(tmp_path / "f", limit=100)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with _files.atomic_write(path, mode=0o640) as file:
        file.write(b"one")
        assert not path.exists()
        (temporary,) = tmp_path.iterdir()
        assert temporary.name.startswith(".f.")
        assert temporary.name.endswith(".tmp")
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    _files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    _files.write_bytes(path, b"three", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _files.write_bytes("f", b"here")
    assert (tmp_path / "f").read_bytes() == b"here"


def test_writes_that_cannot_be(tmp_path: Path) -> None:
    with refused(f"{tmp_path}: is a directory"):
        _files.write_bytes(tmp_path, b"x")
    with refused(f"{tmp_path / 'none' / 'f'}: no such file or directory"):
        _files.write_bytes(tmp_path / "none" / "f", b"x")
    with refused(f"{tmp_path / ('n' * 300)}: file name too long"):
        _files.write_bytes(tmp_path / ("n" * 300), b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_write_takes_the_place_of_regular_files_alone(tmp_path: Path) -> None:
    """A rename over /dev/null, which root may do, would leave a file there."""
    fifo, loop, link, gone = (tmp_path / name for name in ("fifo", "loop", "link", "gone"))
    os.mkfifo(fifo)
    loop.symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for path in (fifo, tmp_path / "socket"):
        with refused(f"{path}: not a regular file"):
            _files.write_bytes(path, b"x")
    with refused(f"{loop}: too many levels of symbolic links"):
        _files.write_bytes(loop, b"x")
    link.symlink_to(fifo)
    with refused(f"{link}: not a regular file"):
        _files.write_bytes(link, b"x")
    gone.symlink_to("nothing")
    _files.write_bytes(gone, b"x")
    assert gone.read_bytes() == b"x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "gone", "link", "loop", "socket"]


def test_names_beside_a_file(tmp_path: Path) -> None:
    assert _files.beside(Path("a/b.log"), ".state") == Path("a/b.log.state")
    for path in (Path(), Path("/")):
        with refused(f"{path}: names no file"):
            _files.beside(path, ".state")


def test_a_path_from_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with refused("f: no such file or directory"):
        _files.real("f")


def test_a_new_file_is_nobody_else_s_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    change = os.fchmod

    def watched(descriptor: int, mode: int) -> None:
        found.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        change(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", watched)
    _files.write_new(tmp_path / "f", b"x")
    assert found == [0o600]


def test_real_paths(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    assert _files.real(tmp_path / "link") == tmp_path.resolve() / "file"
    assert _files.real(tmp_path / "loop") == tmp_path.resolve() / "loop"  # opening it will say so


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_files, "sync_folder", fail)
    with refused(f"{tmp_path / 'f'}: input/output error"):
        _files.write_bytes(tmp_path / "f", b"x")
    with refused(f"{tmp_path / 'd'}: input/output error"), _files.atomic_folder(tmp_path / "d"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["f"]  # renamed already, and whole


def test_an_atomic_folder(tmp_path: Path) -> None:
    with _files.atomic_folder(tmp_path / "d") as folder:
        _files.write_new(folder / "f", b"x")
        assert not (tmp_path / "d").exists()
        assert folder.name.startswith(".d.")
        assert folder.name.endswith(".tmp")
    assert (tmp_path / "d" / "f").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755
    with refused(f"{tmp_path / 'd'}: directory not empty"), _files.atomic_folder(tmp_path / "d"):
        pass
    with pytest.raises(RuntimeError), _files.atomic_folder(tmp_path / "e"):
        raise RuntimeError
    with refused(f"{tmp_path / 'none' / 'd'}: no such file or directory"), _files.atomic_folder(tmp_path / "none/d"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    _files.write_new(tmp_path / "f", b"one")
    with refused(f"{tmp_path / 'f'}: file exists"):
        _files.write_new(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644
    _files.write_new(tmp_path / "g", b"", mode=0o600)
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o600


def test_a_new_file_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    with file_size_limit(3), refused(f"{tmp_path / 'f'}: file too large"):
        _files.write_new(tmp_path / "f", b"four")
    assert list(tmp_path.iterdir()) == []
    _files.remove(tmp_path / "none", tmp_path / "none" / "none")


def test_a_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut would lose cannot be tried here: the calls can."""
    real = os.fsync
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    _files.write_bytes(tmp_path / "f", b"x")
    assert Path(synced[0]).name.startswith(".f.")
    assert synced[1:] == [str(tmp_path)]
    synced.clear()
    _files.write_new(tmp_path / "g", b"x")
    assert synced == [str(tmp_path / "g")]
    synced.clear()
    with _files.atomic_folder(tmp_path / "d"):
        pass
    assert Path(synced[0]).name.startswith(".d.")
    assert synced[1:] == [str(tmp_path)]
