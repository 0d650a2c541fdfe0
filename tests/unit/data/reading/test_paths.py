"""Which files a user means: existing paths as they are spelled, then folders and patterns; each file once; names that tell them apart."""

import os
from pathlib import Path

import pytest

from sparsetrain.data.reading import (
    Fields,
    Skip,
    Unreadable,
    content_of,
    distinct_names,
    expand_home,
    find_files,
    listed,
    read_found,
)

ODD = ["my [draft] data=v2 (copy)", "single[1]", "a,b", "*", "x?y", "~", "${x}", "new\nline", "blank "]


def touch(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ODD)
def test_an_existing_path_is_taken_as_it_is_spelled(tmp_path, monkeypatch, name):
    file, inside = touch(tmp_path / f"{name}.txt"), touch(tmp_path / name / "a.txt")
    touch(tmp_path / "single1.txt"), touch(tmp_path / "xzy.txt")
    monkeypatch.chdir(tmp_path)
    assert find_files([f"{name}.txt"], "data").files == (Path(file.name),)
    assert find_files([str(file)], "data").files == (file,)
    for pattern in (name, f"{name}/*.txt", f"{name}/**/*.txt"):
        assert find_files([str(tmp_path / pattern)], "data").files == (inside,), pattern
    assert find_files([name], "data").files == (Path(name, "a.txt"),)
    assert find_files([f"{name}.txt"], "data").named and not find_files([name], "data").named


def test_folders_and_patterns(tmp_path):
    a, b, c = (touch(tmp_path / name) for name in ("a.py", "x/b.py", "x/y/c.txt"))
    touch(tmp_path / ".git" / "config"), touch(tmp_path / ".hidden")

    def found(pattern: str) -> tuple[Path, ...]:
        return find_files([str(tmp_path / pattern)], "data").files

    assert found("") == found("**") == found("**/*") == (a, b, c)
    assert found("*") == (a,) and found("**/*.py") == (a, b) and found("x/**") == (b, c) and found("*/*.py") == (b,)
    assert found("**/y/*") == (c,) and found("[ab].py") == (a,)


def test_a_file_counts_once_and_says_so(tmp_path):
    a, b = touch(tmp_path / "a.txt", "a"), touch(tmp_path / "b.txt", "b")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    found = find_files([str(b), str(tmp_path), str(tmp_path / "link.txt")], "data")
    assert found.files == (b, a) and found.named == {a, b}
    assert [(Path(note.name).name, note.reason) for note in found.notes] == [
        ("gone.txt", "no regular file, or a link that leads nowhere"),
        (tmp_path.name, f"2 of its files counted once already, the first {b}"),
        ("link.txt", f"1 of its files counted once already, the first {tmp_path}/link.txt (the same file as {a})"),
    ]


def test_folders_that_lead_in_circles_end(tmp_path):
    a = touch(tmp_path / "x" / "a.txt")
    for name in ("one", "two", "three"):
        (tmp_path / "x" / name).symlink_to(tmp_path, target_is_directory=True)
    assert find_files([str(tmp_path)], "data").files == find_files([f"{tmp_path}/**/*.txt"], "data").files == (a,)


def test_a_folder_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "a.txt"), touch(tmp_path / "closed" / "b.txt")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (note,) = find_files([str(tmp_path)], "data").notes
    assert (note.name, note.reason) == (f"{tmp_path}/closed", "Permission denied")


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such text file"):
        find_files([f"{tmp_path}/none.txt"], "data")
    (tmp_path / "empty").mkdir()
    for nothing in (f"{tmp_path}/empty", f"{tmp_path}/empty/**/*.py", f"{tmp_path}/*.none"):
        with pytest.raises(ValueError, match=r"no file matches data=.*; give existing files, folders or patterns"):
            find_files([str(touch(tmp_path / "other" / "a.txt")), nothing], "data")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe, socket or device"):
        find_files([f"{tmp_path}/pipe"], "data")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        find_files([f"{tmp_path}/loop"], "data")
    with pytest.raises(ValueError, match="~ stands for a home folder, and there is none"):
        find_files(["~no_such_user_here/a.txt"], "data")


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home("~/a") == tmp_path / "a" and expand_home("a~") == Path("a~")
    touch(tmp_path / "a.txt")
    assert find_files(["~/*.txt"], "data").files == (tmp_path / "a.txt",)


def test_lists_of_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.txt", "c.txt", "d", "e, f"):
        touch(tmp_path / name)
    assert listed("a,b.txt") == ["a,b.txt"] and listed("x, c.txt,,d") == ["x", "c.txt", "d"]
    assert listed("c.txt,a,b.txt,d") == ["c.txt", "a,b.txt", "d"] and listed("e, f,d") == ["e, f", "d"]
    assert listed(["a,b", "", "c "]) == ["a,b", "c "] and listed("") == []


def test_names_tell_files_apart():
    def named(*paths: str) -> list[str]:
        return distinct_names([Path("/data", path) for path in paths])

    assert named("a.jsonl", "b.txt.gz", "c.JSONL.GZ", "d", ".e") == ["a", "b", "c", "d", ".e"]
    assert named("code/test.jsonl", "prose/test.jsonl", "other.txt") == ["code/test", "prose/test", "other"]
    assert named("a.jsonl", "a.txt", "a.jsonl.gz") == ["a.jsonl", "a.txt", "a.jsonl.gz"]
    assert named("x/1/t.py", "y/1/t.py", "y/2/t.py") == ["x/1/t", "y/1/t", "2/t"]
    assert named("test.py", "a/test.py") == ["data/test", "a/test"]
    many = named(*(f"{i % 50}/part_{i // 50}.txt" for i in range(2500)))
    assert len(set(many)) == 2500


def test_content_is_the_bytes(tmp_path):
    a = touch(tmp_path / "x" / "a.txt", "one")
    stat, before, folder = a.stat(), content_of(a), content_of(tmp_path / "x")
    a.write_text("two")
    os.utime(a, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert a.stat().st_size == stat.st_size and a.stat().st_mtime_ns == stat.st_mtime_ns
    assert content_of(a) != before and content_of(tmp_path / "x") != folder
    a.write_text("one")
    assert content_of(a) == before and content_of(tmp_path / "x") == folder
    same = touch(tmp_path / "y" / "a.txt", "one")
    assert content_of(same) != before and content_of(same)[1:] == before[1:]


def test_a_file_that_cannot_be_read_is_left_out_unless_it_was_named(tmp_path):
    touch(tmp_path / "a.txt", "one"), touch(tmp_path / "c.txt", "two")
    broken = tmp_path / "b.txt"
    broken.write_bytes(b"\xff\xfe\x00binary\x00")
    rows = list(read_found(find_files([str(tmp_path)], "data"), Fields()))
    assert [row.name if isinstance(row, Skip) else row.text for row in rows] == ["one", str(broken), "two"]
    assert isinstance(rows[1], Skip) and str(broken) not in rows[1].reason
    with pytest.raises(Unreadable, match=r"b\.txt"):
        list(read_found(find_files([str(broken)], "data"), Fields()))
    with pytest.raises(Unreadable, match=r"b\.txt"):
        list(read_found(find_files([str(tmp_path), str(broken)], "data"), Fields()))
