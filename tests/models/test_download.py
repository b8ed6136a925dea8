"""Downloads of weights from misbehaving servers."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import weight_server as serve
from effnet_cli.models import download, weights
from effnet_cli.models.variants import PUBLISHED, find_variant
from effnet_cli.system import http
from effnet_cli.system.errors import EffnetError, UsageError
from helpers import RecordingReporter, wait_until
from published_weights import (
    CUT,
    HANG_SECONDS,
    OTHER,
    PAYLOAD,
    VARIANT,
    Mirror,
    effnet,
    leftovers,
    put,
    weights_path,
)

pytestmark = pytest.mark.usefixtures("own_folders")

# Code for another process: `fetch_weights` for a variant that the registry does not have.
FETCH = f"""
from dataclasses import replace
from effnet_cli.models import weights
from effnet_cli.models.variants import WeightsSource, find_variant
source = WeightsSource(
    file_name={VARIANT.source.file_name!r}, sha256={VARIANT.source.sha256!r}, size_mb=1.0
)
print(weights.fetch_weights(replace(find_variant("b0"), name="test", source=source)))
"""


def assert_explains_failure(error: EffnetError, url: str) -> None:
    """Check that the message has the URL, and the hint says where to put which file."""
    assert error.exit_status == 1
    assert "\n" not in str(error)
    assert f"{url}/{VARIANT.source.file_name}" in error.message
    assert VARIANT.source.file_name in error.hint
    assert str(weights_path().parent) in error.hint
    assert "--weights" in error.hint


def test_download_creates_the_whole_file(mirror: Mirror) -> None:
    server = mirror()
    assert weights.weights_state(VARIANT) == "missing"
    assert weights.fetch_weights(VARIANT) == weights_path()
    assert weights_path().read_bytes() == PAYLOAD
    assert leftovers() == set()
    assert server.requests == [serve.Request(f"/{VARIANT.source.file_name}", None)]
    assert weights.weights_state(VARIANT) == "available"


def test_downloaded_file_has_default_permissions(mirror: Mirror) -> None:
    mirror()
    plain = put(b"", weights_path().with_name("plain"))
    assert weights.fetch_weights(VARIANT).stat().st_mode == plain.stat().st_mode


def test_trailing_slashes_of_the_mirror_are_removed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    monkeypatch.setenv("EFFNET_MIRROR", f"{server.url}/models//")
    weights.fetch_weights(VARIANT)
    assert server.requests[0].path == f"/models/{VARIANT.source.file_name}"


def test_default_urls_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import get_weight

    monkeypatch.setenv("EFFNET_MIRROR", "")
    for row in PUBLISHED:
        if row.source.package is None:
            assert download.download_url(row) == get_weight(row.weight_set).url


def test_download_reports_its_progress(mirror: Mirror) -> None:
    server, reporter = mirror(), RecordingReporter()
    weights.fetch_weights(VARIANT, reporter=reporter)
    (note,) = reporter.notes
    assert f"{server.url}/{VARIANT.source.file_name}" in note
    assert "1 MB" in note
    assert {(what, total) for what, _, total in reporter.steps} == {
        (weights_path().name, len(PAYLOAD))
    }
    done = [step[1] for step in reporter.steps]
    assert len(done) > 1
    assert done == sorted(done)
    assert done[-1] == len(PAYLOAD)


def test_closed_connection_is_resumed(mirror: Mirror) -> None:
    server, reporter = mirror(serve.cut(CUT), serve.cut(2 * CUT), serve.whole), RecordingReporter()
    assert weights.fetch_weights(VARIANT, reporter=reporter).read_bytes() == PAYLOAD
    assert server.starts == [None, CUT, 2 * CUT]
    done = [step[1] for step in reporter.steps]
    assert done == sorted(done)
    assert {step[2] for step in reporter.steps} == {len(PAYLOAD)}
    assert leftovers() == set()


def cut_longer_file(handler: serve.Handler, _: bytes) -> None:
    serve.cut(len(PAYLOAD) + CUT)(handler, OTHER + OTHER)


@pytest.mark.parametrize(
    ("responses", "starts"),
    [
        ((serve.cut(CUT), serve.whole_ignoring_range), [None, CUT]),
        ((serve.cut(CUT), serve.status(416), serve.whole), [None, CUT, None]),
        ((serve.cut(CUT), serve.status(503), serve.whole), [None, CUT, CUT]),
        ((serve.cut(0), serve.whole), [None, None]),
        ((serve.status(500), serve.whole), [None, None]),
        ((serve.redirect_to("/elsewhere"), serve.whole), [None, None]),
        ((cut_longer_file, serve.whole_ignoring_range), [None, len(PAYLOAD) + CUT]),
    ],
    ids=[
        "range ignored",
        "416",
        "503 in between",
        "cut at 0",
        "500 once",
        "redirect",
        "longer file before",
    ],
)
def test_download_recovers(
    responses: tuple[serve.Response, ...], starts: list[int | None], mirror: Mirror
) -> None:
    server = mirror(*responses)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert server.starts == starts
    assert leftovers() == set()


def test_connection_reset_is_resumed(mirror: Mirror) -> None:
    server = mirror(serve.cut_by_reset(CUT), serve.whole)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert len(server.requests) == 2


def test_stalled_connection_is_resumed(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STALL_SECONDS", 0.3)
    server = mirror(serve.stalled(CUT), serve.whole)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    # the part of the last chunk that had arrived may be fetched again
    first, second = server.starts
    assert first is None
    assert second is None or second <= CUT


@pytest.mark.parametrize(
    ("responses", "reason", "requests"),
    [
        ((serve.other(OTHER),), "checksum mismatch", 1),
        ((serve.other(PAYLOAD + b"\0"),), "checksum mismatch", 1),
        ((serve.other(b""),), "checksum mismatch", 1),
        ((serve.unsized,), "checksum mismatch", 1),
        ((serve.cut(CUT), serve.other(OTHER)), "checksum mismatch", 2),
        ((serve.cut(CUT), serve.shifted), "checksum mismatch", 2),
        ((serve.cut(0),), "closed after 0 of 1,000,003 bytes", 4),
        ((serve.status(404),), "404", 1),
        ((serve.status(403),), "403", 1),
        ((serve.status(416),), "416", 4),
        ((serve.status(500),), "500", 4),
        ((serve.redirect_to_itself,), "302", None),
        ((serve.redirect_to("file:///etc/passwd"),), "302", 1),
    ],
    ids=[
        "other content", "one byte more", "empty", "half without a length", "other at resuming",
        "wrong range", "always cut", "404", "403", "416", "500", "redirect loop",
        "redirect to a file",
    ],
)  # fmt: skip
def test_failed_download_leaves_nothing_and_explains(
    responses: tuple[serve.Response, ...], reason: str, requests: int | None, mirror: Mirror
) -> None:
    server = mirror(*responses)
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(VARIANT)
    assert_explains_failure(caught.value, server.url)
    assert reason in caught.value.message
    assert requests in (None, len(server.requests))
    assert not weights_path().exists()
    assert leftovers() == set()


@pytest.mark.parametrize(
    ("responses", "reason", "next_start"),
    [
        ((serve.cut(CUT), serve.cut(0)), "closed after 400,000 of 1,000,003 bytes", CUT),
        ((serve.cut(CUT), serve.status(404)), "404", CUT),
        ((serve.cut(CUT), serve.status(503)), "503", CUT),
        ((serve.too_short(10),), "closed after 1,000,003 of 1,000,013 bytes", len(PAYLOAD)),
    ],
    ids=["always cut", "404", "503", "too short"],
)
def test_next_download_continues_a_failed_one(
    responses: tuple[serve.Response, ...], reason: str, next_start: int, mirror: Mirror
) -> None:
    mirror(*responses)
    with pytest.raises(EffnetError, match=reason):
        weights.fetch_weights(VARIANT)
    assert not weights_path().exists()
    assert [Path(name).suffix for name in leftovers()] == [".part"]
    server = mirror()
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert server.starts[0] == next_start
    assert leftovers() == set()


def test_unreachable_server_is_reported_at_once_in_spite_of_a_part(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(serve.cut(CUT), serve.status(404))
    with pytest.raises(EffnetError):
        weights.fetch_weights(VARIANT)
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.3)
    server = mirror(serve.silent)
    with pytest.raises(EffnetError, match="does not respond"):
        weights.fetch_weights(VARIANT)
    assert len(server.requests) == 1


def test_damaged_part_is_not_continued_twice(mirror: Mirror) -> None:
    mirror(serve.cut(CUT), serve.status(404))
    with pytest.raises(EffnetError):
        weights.fetch_weights(VARIANT)
    (part,) = leftovers()
    put(OTHER[:CUT], weights_path().with_name(part))
    server = mirror()
    with pytest.raises(EffnetError, match="checksum mismatch"):
        weights.fetch_weights(VARIANT)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert server.starts == [CUT, None]


def test_credentials_of_the_mirror_are_not_shown(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, reporter = mirror(serve.status(404)), RecordingReporter()
    monkeypatch.setenv("EFFNET_MIRROR", server.url.replace("://", "://user:secret@"))
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(VARIANT, reporter=reporter)
    assert (server.requests[0].authorization or "").startswith("Basic ")
    assert_explains_failure(caught.value, server.url)
    assert "secret" not in f"{caught.value} {reporter.text}"


def test_error_for_wrong_content_has_both_digests(mirror: Mirror) -> None:
    mirror(serve.other(OTHER))
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(VARIANT)
    assert hashlib.sha256(OTHER).hexdigest()[:8] in caught.value.message
    assert VARIANT.source.sha256 in caught.value.message


def test_failed_download_can_be_retried(mirror: Mirror) -> None:
    mirror(serve.status(404), serve.whole)
    with pytest.raises(EffnetError):
        weights.fetch_weights(VARIANT)
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD


def test_silent_server_times_out(mirror: Mirror) -> None:
    server, start = mirror(serve.silent), time.monotonic()
    with pytest.raises(EffnetError, match="does not respond") as caught:
        weights.fetch_weights(VARIANT)
    assert time.monotonic() - start < HANG_SECONDS
    assert_explains_failure(caught.value, server.url)
    assert leftovers() == set()


def test_closed_port_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("EFFNET_MIRROR", url)
        with pytest.raises(EffnetError, match="refused") as caught:
            weights.fetch_weights(VARIANT)
    assert_explains_failure(caught.value, url)
    assert leftovers() == set()


def test_unknown_host_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", "http://no-such-host.invalid")
    with pytest.raises(EffnetError, match="cannot be resolved|does not respond") as caught:
        weights.fetch_weights(VARIANT)
    assert_explains_failure(caught.value, "http://no-such-host.invalid")
    assert leftovers() == set()


def test_hanging_name_lookup_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait(HANG_SECONDS))
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.3)
    monkeypatch.setenv("EFFNET_MIRROR", "http://models.invalid")
    try:
        with pytest.raises(EffnetError, match="does not respond"):
            weights.fetch_weights(VARIANT)
    finally:
        never.set()


@pytest.mark.parametrize(
    "value", ["ftp://127.0.0.1/", "file:///tmp", "127.0.0.1:80", "/srv/models", "javascript:0"]
)
def test_mirror_with_another_scheme_is_a_usage_error(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", value)
    with pytest.raises(UsageError, match="EFFNET_MIRROR") as caught:
        weights.fetch_weights(VARIANT)
    assert repr(value) in caught.value.message


@pytest.mark.parametrize(
    "value",
    ["http://", "http://[::1", "http://a b", "http://127.0.0.1:x", "http://..com",
     f"http://{'a' * 70}.com", "http://127.0.0.1:9/ü", "http://127.0.0.1:9/\r\nX: y"],
)  # fmt: skip
def test_invalid_mirror_url_is_reported(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", value)
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(VARIANT)
    assert VARIANT.source.file_name in str(caught.value)
    assert leftovers() == set()


@pytest.mark.linux
def test_full_disk_leaves_nothing(mirror: Mirror) -> None:
    import resource

    mirror()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, limits[1]))  # the kernel refuses larger files
    try:
        with pytest.raises(EffnetError, match="Cannot write .*: File too large") as caught:
            weights.fetch_weights(VARIANT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(weights_path()) in caught.value.message
    assert not weights_path().exists()
    assert leftovers() == set()
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD


def test_full_disk_at_the_end_keeps_the_old_file(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    mirror()
    put(OTHER)
    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(EffnetError, match="No space left on device"):
        weights.fetch_weights(VARIANT)
    assert weights_path().read_bytes() == OTHER
    assert leftovers() == set()


@pytest.mark.linux
@pytest.mark.parametrize("home", ["{tmp}/a file/torch", "/proc/no-such-folder/torch"])
def test_folder_that_cannot_be_created_is_reported(
    home: str, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TORCH_HOME", home.format(tmp=tmp_path))
    server = mirror()
    with pytest.raises(EffnetError, match="Cannot write") as caught:
        weights.fetch_weights(VARIANT)
    assert str(weights_path()) in caught.value.message
    assert server.requests == []


def part_size() -> int:
    parts = weights_path().parent.glob(".*.part")
    return max((part.stat().st_size for part in parts), default=0)


def start_python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_eight_processes_make_one_download(mirror: Mirror) -> None:
    server = mirror()
    processes = [start_python(FETCH) for _ in range(8)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [stdout.strip() for stdout, _ in outputs] == [str(weights_path())] * 8, outputs
    assert len(server.requests) == 1
    assert weights_path().read_bytes() == PAYLOAD
    assert leftovers() == set()


def test_threads_make_one_download(mirror: Mirror) -> None:
    server = mirror()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: weights.fetch_weights(VARIANT), range(4)))
    assert paths == [weights_path()] * 4
    assert len(server.requests) == 1


def test_killed_download_is_continued(mirror: Mirror) -> None:
    server = mirror(serve.stalled(CUT), serve.whole)
    process = start_python(FETCH)
    assert wait_until(lambda: server.requests and part_size() > CUT // 2, timeout_s=30)
    process.kill()
    process.communicate()
    assert [Path(name).suffix for name in leftovers()] == [".part"]
    assert not weights_path().exists()
    neighbour = put(b"of another download", weights_path().with_name(".other.pth.abc.part"))
    assert weights.fetch_weights(VARIANT).read_bytes() == PAYLOAD
    assert server.starts[0] is None
    assert 0 < (server.starts[1] or 0) <= CUT
    assert leftovers() == {neighbour.name}


def test_stopped_download_keeps_only_its_part(mirror: Mirror) -> None:
    server = mirror(serve.stalled(CUT))
    process = subprocess.Popen(
        [sys.executable, "-m", "effnet_cli", "weights", "pull", "b0"], stderr=subprocess.PIPE
    )
    assert wait_until(lambda: server.requests and leftovers(), timeout_s=30)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"Traceback" not in stderr
    b0 = weights.expected_path(find_variant("b0"))
    assert b0 is not None
    lock, part = f"{b0.name}.lock", f".{b0.name}."
    assert all(name == lock or name.startswith(part) for name in leftovers())


def test_pull_reports_wrong_content_in_two_lines(mirror: Mirror) -> None:
    server = mirror()
    done = effnet("weights", "pull", "b0", "--quiet")
    message, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{server.url}/{find_variant('b0').source.file_name}" in message
    assert hint.startswith(f"Put {find_variant('b0').source.file_name} into ")
    assert not list(weights_path().parent.glob("*.pth"))


def test_pull_reports_the_url(mirror: Mirror) -> None:
    server = mirror()
    done = effnet("weights", "pull", "b0")
    assert done.stdout == ""
    assert f"from {server.url}" in done.stderr


def test_pull_offline_makes_no_connection(mirror: Mirror) -> None:
    server = mirror()
    done = effnet("weights", "pull", "--offline", "b0", "v2_s")
    assert done.returncode == 1
    assert "--offline" in done.stderr
    assert server.requests == []


def test_mirror_with_another_scheme_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", "ftp://127.0.0.1")
    done = effnet("weights", "pull", "b0")
    assert done.returncode == 2
    assert "EFFNET_MIRROR is 'ftp://127.0.0.1', not a URL" in done.stderr
