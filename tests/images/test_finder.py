"""Finding images: order, lists, links, loops, and names with arbitrary bytes."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from effnet_cli.images.finder import IMAGE_SUFFIXES, SYSTEM_NAMES, Finder, ImageInput
from effnet_cli.images.loader import ImageLoader
from effnet_cli.models.variants import VARIANTS
from effnet_cli.system.errors import ImageError, UsageError

LOADER = ImageLoader(VARIANTS["b0"].preprocessing)


def encode(format: str, colour: tuple[int, int, int] = (200, 30, 60)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(file, format)
    return file.getvalue()


PNG = encode("PNG")


@pytest.fixture(autouse=True)
def temporary_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(*names: str, data: bytes = PNG) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def as_stdin(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))


def find(*inputs: str, stdin: bytes = b"") -> list[ImageInput]:
    return list(Finder(inputs, as_stdin(stdin)))


def names(*inputs: str, stdin: bytes = b"") -> list[str]:
    """Return the names found, each of which can be opened."""
    found = find(*inputs, stdin=stdin)
    assert all(one.error is None and one.source == one.name for one in found)
    return [one.name for one in found]


def find_error(*inputs: str) -> ImageError:
    (one,) = find(*inputs)
    assert one.source is None
    assert one.error is not None
    return one.error


def error_kind(path: str) -> str:
    with pytest.raises(ImageError) as caught:
        LOADER.open(path)
    return caught.value.kind


# --- folders -----------------------------------------------------------------------------------


def test_inputs_keep_their_order_and_may_repeat() -> None:
    put("b.png", "a.png", "d/c.png")
    assert names("b.png", "d", "a.png", "b.png", "d") == [
        "b.png",
        "d/c.png",
        "a.png",
        "b.png",
        "d/c.png",
    ]


def test_folder_is_searched_in_the_order_of_names() -> None:
    put(
        "d/b.png",
        "d/a/z.png",
        "d/C.png",
        "d/10.png",
        "d/9.png",
        "d/a/b/c.png",
        "d/a.png",
        "d/é.png",
    )
    expected = ["10.png", "9.png", "C.png", "a/b/c.png", "a/z.png", "a.png", "b.png", "é.png"]
    assert names("d") == [f"d/{name}" for name in expected]
    assert names("d/") == [f"d/{name}" for name in expected]
    assert names(".") == [f"./d/{name}" for name in expected]


def test_file_with_an_image_suffix_is_found_whatever_its_content() -> None:
    expected = sorted(f"d/x{suffix}" for suffix in IMAGE_SUFFIXES)
    put(*expected, data=b"not an image")
    assert names("d") == expected


def test_case_of_a_suffix_is_ignored() -> None:
    put("d/a.JPG", "d/b.Jpeg", "d/c.PNG", data=b"not an image")
    assert names("d") == ["d/a.JPG", "d/b.Jpeg", "d/c.PNG"]


def test_hidden_and_system_names_are_skipped() -> None:
    put("d/.hidden.png", "d/.git/a.png", "d/._1.png", "d/sub/.ipynb_checkpoints/a.png")
    put(*(f"d/{name}/a.png" for name in SYSTEM_NAMES))
    put(*(f"d/sub/{name.upper()}" for name in SYSTEM_NAMES))
    put("d/good.png")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/good.png"]
    assert finder.not_images == 0


def test_hidden_and_system_names_are_found_as_inputs() -> None:
    put(".hidden/a.png", ".b.png", "__MACOSX/c.png")
    assert names(".hidden", ".b.png", "__MACOSX") == [".hidden/a.png", ".b.png", "__MACOSX/c.png"]


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM", "JPEG2000", "AVIF"]
)
def test_image_without_an_image_suffix_is_found(format: str) -> None:
    put("d/0123abcd", "d/x.bin", data=encode(format))
    assert names("d") == ["d/0123abcd", "d/x.bin"]


def test_image_of_an_unsupported_format_is_not_skipped() -> None:
    put("d/photo", data=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert names("d") == ["d/photo"]


NOT_IMAGES = {
    "text": b"hello\n",
    "empty": b"",
    "PDF": b"%PDF-1.7\n",
    "HTML": b"<html></html>",
    "JSON": b"[1, 2]",
    "LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": bytes(600),
    "text that begins like a BMP": b"BMI of the patients\n1, 22.5\n",
    "text that begins like a PPM": b"P1 was the first patient.\n",
}


@pytest.mark.parametrize("data", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_file_that_is_not_an_image_is_counted(data: bytes) -> None:
    put("d/notes", "d/sub/x.txt", data=data)
    put("d/a.png")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/a.png"]
    assert finder.not_images == 2


def test_input_file_is_found_whatever_its_content() -> None:
    put("notes.txt", data=b"hello")
    finder = Finder(["notes.txt", "missing.png"])
    assert [found.name for found in finder] == ["notes.txt", "missing.png"]
    assert finder.not_images == 0


def test_folder_without_images_is_an_error() -> None:
    Path("empty").mkdir()
    put("texts/a.txt", "texts/b/c.txt", data=b"hello")
    for folder in ("empty", "texts"):
        error = find_error(folder)
        assert error.kind == "not_a_file"
        assert "no images" in error.message


def test_folder_named_like_an_image_is_an_error_unless_it_has_images() -> None:
    Path("d/empty.jpg").mkdir(parents=True)
    put("d/texts.jpg/a.txt", data=b"hello")
    put("d/full.jpg/sub.jpg/a.png", "d/z.png")
    found = find("d")
    assert [one.name for one in found] == [
        "d/empty.jpg",
        "d/full.jpg/sub.jpg/a.png",
        "d/texts.jpg",
        "d/z.png",
    ]
    kinds = [one.error.kind if one.error else None for one in found]
    assert kinds == ["not_a_file", None, "not_a_file", None]


def test_unreadable_folder_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put("d/a.png", "d/locked/b.png", "d/z.png")
    scan = os.scandir

    def refuse(path: str):
        if path == "d/locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    before, locked, after = find("d")
    assert (before.name, locked.name, after.name) == ("d/a.png", "d/locked", "d/z.png")
    assert locked.error is not None
    assert locked.error.kind == "unreadable"
    assert "Permission denied" in locked.error.message


@pytest.mark.linux
def test_pipe_in_a_folder_does_not_stop_the_search() -> None:
    put("d/a.png", "d/z.png")
    os.mkfifo("d/pipe.jpg")
    os.mkfifo("d/pipe")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/a.png", "d/pipe.jpg", "d/z.png"]
    assert finder.not_images == 1
    assert error_kind("d/pipe.jpg") == "not_a_file"


def test_images_are_yielded_before_the_whole_folder_is_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("d/a/1.png", "d/b/2.png")
    scanned: list[str] = []
    scan = os.scandir

    def recording_scandir(path: str):
        scanned.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", recording_scandir)
    assert next(iter(Finder(["d"]))).name == "d/a/1.png"
    assert scanned == ["d", "d/a"]


@contextmanager
def nested_folders(levels: int, name: str = "d") -> Iterator[None]:
    """Create `levels` nested folders called `name` in `d`, with `a.png` in the innermost."""
    Path("d").mkdir()
    folder = os.open("d", os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=folder)
        folder = enter(folder, name)
    file = os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    os.write(file, PNG)
    os.close(file)
    try:
        yield
    finally:  # pytest's clean-up would exceed the recursion limit
        os.unlink("a.png", dir_fd=folder)
        for _ in range(levels):
            folder = enter(folder, "..")
            os.rmdir(name, dir_fd=folder)
        os.close(folder)


def enter(folder: int, name: str) -> int:
    inner = os.open(name, os.O_DIRECTORY, dir_fd=folder)
    os.close(folder)
    return inner


def test_image_below_1500_folders_is_found() -> None:
    with nested_folders(1500):
        finder = Finder(["d"])
        (found,) = finder
        assert found.name == "d/" * 1501 + "a.png"
        assert finder.count() == 1
        assert LOADER.open(found.source).size == (16, 12)


def test_folders_deeper_than_the_path_limit_are_one_error() -> None:
    put("z.png")
    with nested_folders(30, name="d" * 200):
        *_, deep, last = find("d", "z.png")
    assert last.name == "z.png"
    assert deep.error is not None
    assert deep.error.kind == "unreadable"


# --- links -------------------------------------------------------------------------------------


@pytest.mark.linux
def test_link_loops_end_and_every_file_is_found_once() -> None:
    put("d/a.png", "d/sub/b.png")
    Path("d/loop").symlink_to(".")
    Path("d/sub/up").symlink_to("..")
    Path("d/sub/self").symlink_to("self")
    Path("d/sub/far").symlink_to(Path.cwd())
    assert names("d") == ["d/a.png", "d/sub/b.png"]


@pytest.mark.linux
def test_link_to_a_file_of_the_same_folder_is_skipped_and_counted() -> None:
    put("d/a.png", "d/sub/b.png")
    Path("d/also_a.png").symlink_to("a.png")
    Path("d/also_b").symlink_to("sub/b.png")
    Path("d/sub/again").symlink_to("../also_a.png")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/a.png", "d/sub/b.png"]
    assert finder.duplicate_links == 3


@pytest.mark.linux
def test_link_to_a_file_elsewhere_is_followed_once() -> None:
    put("elsewhere/a.png")
    Path("d").mkdir()
    Path("d/1.png").symlink_to("../elsewhere/a.png")
    Path("d/2.png").symlink_to("../elsewhere/a.png")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/1.png"]
    assert finder.duplicate_links == 1


@pytest.mark.linux
def test_link_to_a_skipped_file_is_followed() -> None:
    put("d/.annex/objects/a", "d/.annex/objects/b")
    Path("d/a.png").symlink_to(".annex/objects/a")
    Path("d/b.png").symlink_to(".annex/objects/b")
    assert names("d") == ["d/a.png", "d/b.png"]


@pytest.mark.linux
def test_link_named_like_an_image_to_another_file_is_not_skipped() -> None:
    put("d/a.png")
    put("d/data.bin", data=b"not an image")
    Path("d/photo.jpg").symlink_to("data.bin")
    assert names("d") == ["d/a.png", "d/photo.jpg"]
    assert error_kind("d/photo.jpg") == "not_an_image"


@pytest.mark.linux
def test_linked_folder_elsewhere_is_searched_once() -> None:
    put("elsewhere/a.png", "elsewhere/sub/b.png", "d/z.png")
    Path("d/one").symlink_to("../elsewhere")
    Path("d/two").symlink_to("../elsewhere")
    Path("elsewhere/back").symlink_to("../d")
    assert names("d") == ["d/one/a.png", "d/one/sub/b.png", "d/z.png"]


@pytest.mark.linux
def test_input_link_is_followed() -> None:
    put("real/a.png")
    Path("folder").symlink_to("real")
    Path("image").symlink_to("real/a.png")
    assert names("folder", "image") == ["folder/a.png", "image"]


@pytest.mark.linux
def test_broken_and_looping_links_are_found() -> None:
    put("d/a.png")
    Path("d/dangling.png").symlink_to("nothing")
    Path("d/loop.png").symlink_to("loop.png")
    Path("d/nameless").symlink_to("nothing")
    finder = Finder(["d"])
    assert [found.name for found in finder] == ["d/a.png", "d/dangling.png", "d/loop.png"]
    assert finder.not_images == 1
    assert error_kind("d/dangling.png") == error_kind("d/loop.png") == "missing"


@pytest.mark.linux
def test_links_are_counted_for_each_input() -> None:
    put("elsewhere/a.png")
    for folder in ("d", "e"):
        Path(folder).mkdir()
        Path(folder, "x.png").symlink_to("../elsewhere/a.png")
    assert names("d", "e") == ["d/x.png", "e/x.png"]


# --- patterns ----------------------------------------------------------------------------------


def test_pattern_matches_in_order() -> None:
    put("b.png", "a.png", "c.jpg", "d/e.png", ".hidden.png")
    assert names("*.png") == ["a.png", "b.png"]
    assert names("?.jpg") == ["c.jpg"]
    assert names("[ab].png") == ["a.png", "b.png"]
    assert names("**/*.png") == ["a.png", "b.png", "d/e.png"]
    assert names("?") == ["d/e.png"]
    assert names("**d/e*") == ["d/e.png"]


@pytest.mark.linux
def test_existing_path_comes_before_a_pattern() -> None:
    put("a1.jpg")
    assert names("a[1].jpg") == ["a1.jpg"]
    put("a[1].jpg", "what?.jpg", "d[x]/b.png")
    assert names("a[1].jpg", "what?.jpg", "d[x]") == ["a[1].jpg", "what?.jpg", "d[x]/b.png"]
    Path("b[1].jpg").symlink_to("nothing")
    assert names("b[1].jpg") == ["b[1].jpg"]


def test_pattern_without_matches_is_an_error() -> None:
    error = find_error("no*.png")
    assert error.kind == "missing"
    assert "pattern" in error.message


def test_pattern_over_folders_yields_every_image_once() -> None:
    put("d/a.png", "d/sub/b.png", "d/sub/deep/c.png")
    assert sorted(names("d/**")) == ["d/a.png", "d/sub/b.png", "d/sub/deep/c.png"]


@pytest.mark.linux
@pytest.mark.timeout(20)
def test_pattern_ends_in_link_loops() -> None:
    put("d/a.png", "d/sub/b.png")
    Path("d/loop").symlink_to(".")
    Path("d/sub/loop").symlink_to("..")
    assert names("d/**/*.png") == ["d/a.png", "d/sub/b.png"]


# --- lists -------------------------------------------------------------------------------------


def read_list(data: bytes) -> list[str]:
    """Return the names of a list, which must be the same from a file and from stdin."""
    Path("list.txt").write_bytes(data)
    from_file = names("@list.txt")
    assert names("-", stdin=data) == from_file
    return from_file


def test_list_has_one_path_per_line() -> None:
    put("d/1.png", "d/2.png")
    assert read_list(b"b.png\nd\na.png\n") == ["b.png", "d/1.png", "d/2.png", "a.png"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n", b"\0"])
def test_last_line_end_is_optional(end: bytes) -> None:
    assert read_list(b"b.png" + end) == ["b.png"]


def test_blank_lines_and_windows_line_ends_are_ignored() -> None:
    assert read_list(b"\r\nb.png\r\n\r\n\nc d.png\r\n") == ["b.png", "c d.png"]


def test_byte_order_mark_is_not_part_of_a_name() -> None:
    assert read_list(b"\xef\xbb\xbfb.png\na.png\n") == ["b.png", "a.png"]


def test_empty_list_yields_nothing() -> None:
    assert read_list(b"") == read_list(b"\n\n") == []


def test_spaces_are_part_of_a_name() -> None:
    assert read_list(b" a.png \n\tb.png\n") == [" a.png ", "\tb.png"]


def test_listed_names_are_literal() -> None:
    put("a1.png", "x.txt")
    expected = ["a[1].png", "*.png", "@x.txt", "-", "-rf", "~"]
    assert read_list("\n".join(expected).encode()) == expected


@pytest.mark.linux
def test_listed_names_can_have_any_bytes() -> None:
    data = b"caf\xe9.png\n\xff\xfe.png\n\xf0\x9f\x90\x88.png\n\x1b[31m.png\n"
    assert [os.fsencode(name) for name in read_list(data)] == data.split(b"\n")[:-1]


def test_nul_separates_names_with_line_ends() -> None:
    expected = ["a.png", "b\nc.png", " \r\n", "é.png", "\n"]
    assert read_list("\0".join(expected).encode()) == expected
    assert read_list("\0".join([*expected, ""]).encode()) == expected
    assert read_list(b"a.png\0\0b.png\0") == ["a.png", "b.png"]


def test_first_nul_separated_name_can_have_line_ends() -> None:
    assert read_list(b"a\nb.png\0c.png\0") == ["a\nb.png", "c.png"]


def test_long_list_is_split_correctly_at_any_buffer_end() -> None:
    expected = [f"folder/{'x' * (n % 97)}{n}.png" for n in range(4000)]
    assert read_list("\n".join(expected).encode()) == expected
    assert read_list("\0".join(expected).encode()) == expected


def test_unreadable_list_is_a_usage_error() -> None:
    Path("folder").mkdir()
    for name in ("nothing.txt", "folder"):
        with pytest.raises(UsageError, match=name):
            find(f"@{name}")


def test_file_name_with_an_at_sign_comes_before_a_list() -> None:
    put("@x.jpg")
    put("x.jpg", data=b"a.png\nb.png\n")
    assert names("@x.jpg") == ["@x.jpg"]
    Path("@x.jpg").unlink()
    assert names("@x.jpg") == ["a.png", "b.png"]


# --- stdin -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM", "JPEG2000", "AVIF"]
)
def test_image_bytes_are_read_from_stdin(format: str) -> None:
    data = encode(format)
    assert find("-", stdin=data) == [ImageInput("-", data)]
    assert LOADER.open(data).size == (16, 12)


def test_document_on_stdin_is_identified_and_refused() -> None:
    for data in (b"<!doctype html><html>\nnot found", b"%PDF-1.7\n%", b'{"error":\n 404}'):
        assert find("-", stdin=data) == [ImageInput("-", data)]


class SlowPipe(io.RawIOBase):
    """A pipe whose writer is slow."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = self.pieces.pop(0) if self.pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


def test_image_can_arrive_on_stdin_in_pieces() -> None:
    data = encode("BMP")
    pipe = io.BufferedReader(SlowPipe(data[:40], data[40:41], data[41:]))
    assert list(Finder(["-"], pipe)) == [ImageInput("-", data)]


def test_names_are_found_as_soon_as_they_arrive_on_stdin() -> None:
    pipe = SlowPipe(b"a.png\nb.p", b"ng\n", b"c.png\n")
    found = iter(Finder(["-"], io.BufferedReader(pipe)))
    assert next(found).name == "a.png"
    assert len(pipe.pieces) == 2
    assert [one.name for one in found] == ["b.png", "c.png"]


@pytest.mark.parametrize(
    "name", ["BMW.png", "[1].png", "{1}.png", "P1 x.png", "GIF89a.png", "MZ.png"]
)
def test_path_that_begins_like_an_image_is_a_path(name: str) -> None:
    put(name, "z.png")
    assert names("-", stdin=f"{name}\nz.png\n".encode()) == [name, "z.png"]
    assert names("-", stdin=f"{name}\0z.png\0".encode()) == [name, "z.png"]


def test_dash_is_stdin_only_as_a_whole_word() -> None:
    put("-", "-a.png")
    assert names("./-", "-a.png", stdin=b"never.png\n") == ["./-", "-a.png"]
    assert names("-", stdin=b"a.png\n") == ["a.png"]


# --- counts ------------------------------------------------------------------------------------


def test_count_is_the_number_of_inputs() -> None:
    put("d/a.png", "d/sub/b.png", "c.png")
    put("d/notes.txt", data=b"hello")
    Path("empty").mkdir()
    put("list.txt", data=b"c.png\nd\n")
    finder = Finder(["d", "c.png", "missing.png", "empty", "*.png", "no*", "@list.txt"])
    assert finder.count() == len(list(finder)) == 10
    assert not finder.is_stream


def test_count_is_unknown_for_stdin() -> None:
    finder = Finder(["-"], as_stdin(b"a.png\n"))
    assert finder.is_stream
    assert finder.count() is None
    assert [found.name for found in finder] == ["a.png"]


def test_piped_list_is_not_consumed_by_counting() -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"a.png\nb.png\n")
    os.close(write_end)
    finder = Finder([f"@/dev/fd/{read_end}"])
    total = finder.count()
    found = [one.name for one in finder]
    os.close(read_end)
    assert found == ["a.png", "b.png"]
    assert total is None


# --- names -------------------------------------------------------------------------------------

ODD_NAMES = [
    b"-rf.png",
    b"--help.png",
    b"@a.png",
    b"a\nb.png",
    b"a\tb\rc.png",
    b"\x1b[31mred\x1b[0m.png",
    b"\xff\xfe\xe9.png",
    b"\xed\xa0\x80.png",
    "🐈.png".encode(),
    "\u202egnp.exe.png".encode(),
    b"[bold]x[].png",
    b"<script>alert(1)<script>.png",
    b"=cmd().png",
    b"%s{}$HOME`id`.png",
    b"'\".png",
    b"*?[a].png",
    b" .png",
    b"x" * 251 + b".png",
]


@pytest.mark.linux
@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_name_of_any_bytes_is_found_and_opened(name: bytes) -> None:
    put(f"d/{os.fsdecode(name)}")
    (found,) = find("d")
    assert os.fsencode(found.name) == b"d/" + name
    assert LOADER.open(found.source).size == (16, 12)
    os.chdir("d")
    (found,) = find(os.fsdecode(name))
    assert os.fsencode(found.name) == name
    assert LOADER.open(found.source).size == (16, 12)


def test_name_with_nul_is_one_error() -> None:
    put("a.png")
    found = find("a\0b.png", "a.png")
    assert [one.name for one in found] == ["a\0b.png", "a.png"]
    assert error_kind("a\0b.png") == "missing"
