"""Writing to stdout and to files."""

import sys
from pathlib import Path

import pytest

from effnet_cli.options import Format
from effnet_cli.output import writers
from effnet_cli.system.errors import EffnetError, OutputClosed, UsageError


@pytest.mark.parametrize(
    ("option", "output", "expected"),
    [
        (None, None, "table"),
        (None, Path("a.json"), "json"),
        (None, Path("a.JSONL"), "jsonl"),
        (None, Path("a.csv"), "csv"),
        (None, Path("a.txt"), "table"),
        ("csv", Path("a.json"), "csv"),
    ],
)
def test_format_follows_the_option_then_the_name(
    option: Format | None, output: Path | None, expected: str
) -> None:
    assert writers.choose_format(option, output) == expected


def test_file_is_written_atomically(tmp_path: Path) -> None:
    def yield_then_interrupt():  # noqa: ANN202
        yield "first\n"
        raise KeyboardInterrupt

    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    with pytest.raises(KeyboardInterrupt):
        writers.write(yield_then_interrupt(), path)
    assert path.read_text() == "before\n"
    writers.write(["first\n", "second\n"], path)
    assert path.read_text() == "first\nsecond\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.linux
def test_folder_and_device_as_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        writers.write(["x"], tmp_path)
    with pytest.raises(UsageError, match="not a regular file"):
        writers.write(["x"], Path("/dev/null"))
    assert not Path("/dev/null").is_file()


@pytest.mark.linux
def test_output_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    writers.write(["x"], tmp_path / "link.txt")
    assert (tmp_path / "real.txt").read_text() == "x"
    assert (tmp_path / "link.txt").is_symlink()


@pytest.mark.parametrize(
    ("error", "expected"), [(BrokenPipeError, OutputClosed), (OSError, EffnetError)]
)
def test_closed_stdout_differs_from_a_failed_write(
    error: type[OSError], expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailingStdout:
        buffer: "FailingStdout"

        def write(self, _: bytes) -> None:
            raise error(28, "No space left on device")

    stdout = FailingStdout()
    stdout.buffer = stdout
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(expected):
        writers.write(["x"], None)
