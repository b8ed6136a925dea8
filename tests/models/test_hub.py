"""Files of model hubs: found in caches, downloaded from misbehaving servers."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weight_server as serve
from effnet_cli.models import download, hub
from effnet_cli.models.hub import HubFile, fetch_hub_file, find_hub_file, hub_url
from effnet_cli.system import http
from effnet_cli.system.errors import EffnetError, UsageError
from effnet_cli.system.files import kept_parts
from helpers import UNREACHABLE, RecordingReporter, wait_until
from hub_server import COMMIT_ID, HubServer, git_name, lfs_name, linked, small
from weight_server import WeightServer

WEIGHTS = np.random.default_rng(2).bytes(300_007)
NEW_WEIGHTS = np.random.default_rng(3).bytes(len(WEIGHTS))
CONFIG = b'{"architecture": "tf_efficientnet_b0"}'
PAGE = b"<!DOCTYPE html><html><body>Sign in to the guest network</body></html>"
MIDDLE = 120_000
SECONDS = 8  # an upper bound: effnet gives up after 5 s at most
ALTERNATIVE = "put the file somewhere."
PLAIN = HubFile("timm/tf_efficientnet_b0.ns_jft_in1k", "model.safetensors")
PINNED = replace(PLAIN, sha256=lfs_name(WEIGHTS))
SMALL = replace(PLAIN, name="config.json")

# Code for another process.
FETCH = f"""
from effnet_cli.models.hub import HubFile, fetch_hub_file
print(fetch_hub_file({PLAIN!r}, alternative={ALTERNATIVE!r}))
"""
VARIABLES = (
    "HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN",
    "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "XDG_CACHE_HOME", "http_proxy", "HTTP_PROXY",
    "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_hub_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "library"))
    monkeypatch.setenv("EFFNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFNET_MIRROR", "")
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Start = Callable[..., HubServer]


@pytest.fixture
def start_hub(servers: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`start_hub(response, ..., content=..., digest=...)` starts a hub whose CDN responds so."""

    def start(*responses: serve.Response, content: bytes = WEIGHTS, digest: str = "") -> HubServer:
        server = servers.enter_context(HubServer(content, *responses, digest=digest))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    return start


@pytest.fixture
def start_front(servers: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WeightServer]:
    """`start_front(response, ...)` starts a hub that sends its files itself."""

    def start(*responses: serve.Response, content: bytes = WEIGHTS) -> WeightServer:
        server = servers.enter_context(WeightServer(content, *responses))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    return start


def fetch(file: HubFile = PLAIN, **options: bool) -> bytes:
    return fetch_hub_file(file, alternative=ALTERNATIVE, **options).read_bytes()


def fail(file: HubFile = PLAIN, **options: bool) -> str:
    """Return why `file` cannot be had."""
    with pytest.raises(EffnetError) as caught:
        fetch_hub_file(file, alternative=ALTERNATIVE, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint.lower().endswith(ALTERNATIVE)
    assert find_hub_file(file) is None
    return caught.value.message


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def own_path(file: HubFile = PLAIN) -> Path:
    folder = "timm--tf_efficientnet_b0.ns_jft_in1k"
    return Path(os.environ["EFFNET_CACHE"], "hub", folder, file.revision, file.name)


def names(path: Path) -> set[str]:
    return {one.name for one in path.parent.iterdir()}


# --- the hub library's cache --------------------------------------------------------------------


def library(file: HubFile = PLAIN) -> Path:
    return hub.library_cache() / f"models--{file.repo.replace('/', '--')}"


def put_library(
    content: bytes, file: HubFile = PLAIN, *, blob: str = "", ref: str | None = "main"
) -> Path:
    """Put a file into the library's cache, as the library does; return its path in the snapshot."""
    if sys.platform == "win32":
        pytest.skip("needs links")
    path = library(file) / "snapshots" / COMMIT_ID / file.name
    target = put(library(file) / "blobs" / (blob or lfs_name(content)), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))
    if ref is not None:
        put(library(file) / "refs" / ref, COMMIT_ID.encode())
    return path


def put_copy(content: bytes, file: HubFile = PLAIN) -> Path:
    """Put a file into the library's cache where links are not supported."""
    put(library(file) / "refs" / "main", COMMIT_ID.encode())
    return put(library(file) / "snapshots" / COMMIT_ID / file.name, content)


def snapshot_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("file", [PLAIN, PINNED], ids=["plain", "pinned"])
def test_file_of_the_library_is_found(file: HubFile) -> None:
    path = put_library(WEIGHTS)
    before = snapshot_of(library())
    assert find_hub_file(file) == path
    assert fetch_hub_file(file, offline=True, alternative=ALTERNATIVE) == path
    assert snapshot_of(library()) == before
    assert not own_path().exists()


def test_small_file_of_the_library_is_found() -> None:
    path = put_library(CONFIG, SMALL, blob=git_name(CONFIG))
    assert find_hub_file(SMALL) == path
    assert find_hub_file(replace(SMALL, sha256=lfs_name(CONFIG))) == path


@pytest.mark.linux
def test_files_that_the_library_downloaded_are_found(start_hub: Start, tmp_path: Path) -> None:
    library_download = pytest.importorskip("huggingface_hub").hf_hub_download
    server = start_hub()
    written = library_download(
        PLAIN.repo, PLAIN.name, endpoint=server.url, cache_dir=tmp_path / "library" / "hub"
    )
    assert str(find_hub_file(PLAIN)) == written
    assert fetch(offline=True) == WEIGHTS


def test_files_in_folders_of_a_repository_are_found() -> None:
    file = replace(PLAIN, name="onnx/fp16/model.onnx")
    assert find_hub_file(file) is None
    path = put_library(WEIGHTS, file)
    assert find_hub_file(file) == path


def test_blob_that_is_a_link_has_the_digest_of_the_first_name() -> None:
    """Recent libraries share blobs between repositories, under names that are no SHA-256."""
    path = put_library(WEIGHTS)
    blob = path.resolve()
    shared = hub.library_cache() / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert find_hub_file(PLAIN) == path
    shared.write_bytes(NEW_WEIGHTS)
    assert find_hub_file(PLAIN) is None


def test_copy_in_the_library_needs_a_known_digest(start_hub: Start) -> None:
    path = put_copy(WEIGHTS)
    assert find_hub_file(PINNED) == path
    assert find_hub_file(PLAIN) is None
    start_hub()
    fetch()
    own_path().unlink()
    assert find_hub_file(PLAIN) == path  # our record says that it is the same
    put_copy(NEW_WEIGHTS)
    assert find_hub_file(PLAIN) is None


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1"])
def test_revisions_of_the_library(revision: str) -> None:
    path = put_library(WEIGHTS, ref=revision)
    assert find_hub_file(replace(PLAIN, revision=revision)) == path
    assert find_hub_file(replace(PLAIN, revision=COMMIT_ID)) == path
    assert find_hub_file(replace(PLAIN, revision="other")) is None
    assert find_hub_file(replace(PINNED, revision="other")) == path  # the digest decides


def test_only_snapshot_is_main() -> None:
    path = put_library(WEIGHTS, ref=None)
    assert find_hub_file(PLAIN) == path
    put(library() / "snapshots" / "another" / PLAIN.name, NEW_WEIGHTS)
    assert find_hub_file(PLAIN) is None
    assert find_hub_file(PINNED) == path


@pytest.mark.parametrize("ref", [b"../snapshots", b"/etc", b"", b"\xff\0", b"a" * 5000])
def test_odd_reference_of_the_library_is_ignored(ref: bytes) -> None:
    put_library(WEIGHTS)
    put(library() / "refs" / "main", ref)
    put(library() / "snapshots" / "another" / PLAIN.name, NEW_WEIGHTS)
    assert find_hub_file(PLAIN) is None


@pytest.mark.parametrize("damaged", [NEW_WEIGHTS, WEIGHTS[:-1], b"", b"\0" + WEIGHTS[1:]])
@pytest.mark.parametrize("file", [PLAIN, PINNED], ids=["plain", "pinned"])
def test_damaged_file_of_the_library_is_neither_used_nor_changed(
    file: HubFile, damaged: bytes, start_hub: Start
) -> None:
    put_library(damaged, blob=lfs_name(WEIGHTS))
    before = snapshot_of(library())
    assert "missing" in fail(file, offline=True)
    start_hub()
    assert fetch(file) == WEIGHTS
    assert find_hub_file(file) == own_path()
    assert snapshot_of(library()) == before


def test_damage_after_the_first_use_is_noticed() -> None:
    path = put_library(WEIGHTS)
    assert find_hub_file(PLAIN) == path
    path.resolve().write_bytes(NEW_WEIGHTS)
    assert find_hub_file(PLAIN) is None


@pytest.mark.parametrize("blob", [git_name(b"other"), "5f3a-abc", "A" * 64])
def test_file_with_another_name_than_its_digest_is_not_used(blob: str) -> None:
    put_library(CONFIG, SMALL, blob=blob)
    assert find_hub_file(SMALL) is None


@pytest.mark.linux
def test_unreadable_library_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (
        put(tmp_path / "a file", b""),
        tmp_path / "a file" / "hub",
        tmp_path / ("n" * 300),
    ):
        monkeypatch.setenv("HF_HUB_CACHE", str(folder))
        assert find_hub_file(PINNED) is None
    monkeypatch.delenv("HF_HUB_CACHE")
    path = put_library(WEIGHTS)
    path.resolve().unlink()
    assert find_hub_file(PINNED) is None  # a link to nothing
    path.unlink()
    path.mkdir()
    assert find_hub_file(PINNED) is None
    path.rmdir()
    os.mkfifo(path)
    (library() / "refs" / "main").unlink()
    os.mkfifo(library() / "refs" / "main")
    assert find_hub_file(PINNED) is None


def test_unreadable_file_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise EffnetError(f"Cannot read {str(path)!r}.", "Check its permissions.")

    put_library(WEIGHTS)
    put(own_path(), WEIGHTS)
    monkeypatch.setattr(hub, "cached_sha256", refuse)
    assert find_hub_file(PINNED) is None
    assert find_hub_file(PLAIN) is None


@pytest.mark.linux
@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HUB_CACHE": "~/a"}, "{home}/a"),
        ({"HF_HUB_CACHE": "$HOME/a"}, "{home}/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, "{home}/.cache/huggingface/hub"),
        (
            {"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": ""},
            "{home}/.cache/huggingface/hub",
        ),
    ],
    ids=str,
)
def test_library_cache_is_found_the_way_the_library_does(
    environment: dict[str, str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_HOME")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub.library_cache() == Path(folder.format(home=tmp_path))


# --- our own cache ------------------------------------------------------------------------------


def test_download_creates_the_whole_file(start_hub: Start) -> None:
    server, reporter = start_hub(), RecordingReporter()
    assert find_hub_file(PLAIN) is None
    assert fetch_hub_file(PLAIN, reporter=reporter, alternative=ALTERNATIVE) == own_path()
    assert own_path().read_bytes() == WEIGHTS
    assert find_hub_file(PLAIN) == find_hub_file(PINNED) == own_path()
    path = f"/{PLAIN.repo}/resolve/main/{PLAIN.name}"
    assert server.front.requests == [serve.Request(path, None)]
    assert server.cdn.requests == [serve.Request("/blob", None)]
    assert names(own_path()) == {PLAIN.name, f"{PLAIN.name}.sha256", f"{PLAIN.name}.lock"}
    (note,) = reporter.notes
    assert PLAIN.repo in note
    assert server.url.removeprefix("http://") in note
    assert reporter.steps[-1] == (PLAIN.name, len(WEIGHTS), len(WEIGHTS))
    fetch()
    assert len(server.front.requests) == 1


def test_small_file_is_downloaded(start_front: Callable[..., WeightServer]) -> None:
    server = start_front(small(CONFIG))
    assert fetch(SMALL) == CONFIG
    assert fetch(SMALL, offline=True) == CONFIG
    assert len(server.requests) == 1


def test_small_file_behind_a_redirect_of_the_hub_is_checked(
    start_front: Callable[..., WeightServer],
) -> None:
    start_front(linked("/cache/config.json", git_name(CONFIG), len(CONFIG)), small(CONFIG))
    assert fetch(SMALL) == CONFIG
    start_front(
        linked("/cache/config.json", git_name(CONFIG), len(CONFIG)), small(CONFIG[:-1] + b"]")
    )
    own_path(SMALL).unlink()
    assert "checksum mismatch" in fail(SMALL)


def test_server_without_digests_is_checked_by_length(
    start_front: Callable[..., WeightServer],
) -> None:
    start_front(serve.whole)
    assert fetch() == WEIGHTS


@pytest.mark.parametrize("damaged", [NEW_WEIGHTS, WEIGHTS[:-1], b""])
@pytest.mark.parametrize("file", [PLAIN, PINNED], ids=["plain", "pinned"])
def test_file_that_has_changed_is_downloaded_again(
    file: HubFile, damaged: bytes, start_hub: Start
) -> None:
    server = start_hub()
    fetch(file)
    own_path().write_bytes(damaged)
    assert "'model.safetensors' of timm/tf_efficientnet_b0.ns_jft_in1k is damaged" in fail(
        file, offline=True
    )
    assert len(server.front.requests) == 1
    assert fetch(file) == WEIGHTS
    assert len(server.front.requests) == 2


def test_file_put_by_hand_is_accepted_and_must_stay_the_same() -> None:
    put(own_path(), WEIGHTS)
    assert fetch(offline=True) == WEIGHTS
    assert (own_path().parent / f"{PLAIN.name}.sha256").read_text().strip() == lfs_name(WEIGHTS)
    own_path().write_bytes(NEW_WEIGHTS)
    fail(offline=True)


@pytest.mark.parametrize("record", [b"", b"\xff", b"0" * 64, b"no digest"])
def test_odd_record_means_another_download(record: bytes, start_hub: Start) -> None:
    start_hub()
    fetch()
    put(own_path().with_name(f"{PLAIN.name}.sha256"), record)
    assert find_hub_file(PLAIN) is None
    assert fetch() == WEIGHTS
    assert find_hub_file(PLAIN) == own_path()


def test_failed_download_keeps_the_damaged_file_unused(start_hub: Start) -> None:
    start_hub()
    fetch()
    own_path().write_bytes(NEW_WEIGHTS)
    start_hub(serve.status(404))
    fail()
    assert own_path().read_bytes() == NEW_WEIGHTS


def test_kill_between_record_and_file_leaves_nothing_usable(
    start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(own_path(), NEW_WEIGHTS)
    fetch(offline=True)
    start_hub()
    with monkeypatch.context() as patch:
        patch.setattr(hub, "commit_part", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            fetch(PINNED)
    assert find_hub_file(PLAIN) is None
    assert fetch() == WEIGHTS


@pytest.mark.parametrize("value", ["1", "ON", "yes", "True"])
def test_offline_variable_is_obeyed(
    value: str, start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert "missing, and HF_HUB_OFFLINE is set" in fail()
    put_library(WEIGHTS)
    assert fetch() == WEIGHTS
    assert server.front.requests == []


@pytest.mark.parametrize("value", ["", "0", "OFF", "no", "false"])
def test_offline_variable_can_be_false(
    value: str, start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert fetch() == WEIGHTS


def test_offline_makes_no_connection(start_hub: Start) -> None:
    server = start_hub()
    assert "'model.safetensors' of timm/" in fail(offline=True)
    assert server.front.requests == []
    assert not Path(os.environ["EFFNET_CACHE"]).exists()


@pytest.mark.linux
def test_cache_that_cannot_be_written_is_reported(
    start_hub: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_hub()
    monkeypatch.setenv("EFFNET_CACHE", str(put(tmp_path / "a file", b"") / "cache"))
    with pytest.raises(EffnetError, match="Cannot write .*model.safetensors"):
        fetch()
    assert server.front.requests == []
    put_library(WEIGHTS)
    assert fetch() == WEIGHTS


@pytest.mark.linux
def test_full_disk_leaves_nothing(start_hub: Start) -> None:
    import resource

    start_hub()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIDDLE, limits[1]))
    try:
        with pytest.raises(EffnetError, match="Cannot write .*: File too large"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(own_path()) == {f"{PLAIN.name}.lock"}
    assert fetch() == WEIGHTS


# --- URLs and names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "base"),
    [
        ({}, "https://huggingface.co"),
        ({"HF_ENDPOINT": "https://hub.test/"}, "https://hub.test"),
        ({"EFFNET_MIRROR": "http://mirror.test/hf//", "HF_ENDPOINT": "https://hub.test"},
         "http://mirror.test/hf"),
    ],
)  # fmt: skip
def test_url_of_a_file(
    environment: dict[str, str], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub_url(PLAIN) == f"{base}/{PLAIN.repo}/resolve/main/model.safetensors"
    odd = HubFile("gpt2", "a folder/b?#.bin", "refs/pr/1")
    assert hub_url(odd) == f"{base}/gpt2/resolve/refs%2Fpr%2F1/a%20folder/b%3F%23.bin"


@pytest.mark.parametrize("variable", ["EFFNET_MIRROR", "HF_ENDPOINT"])
def test_base_with_another_scheme_is_a_usage_error(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "ftp://hub.test")
    with pytest.raises(UsageError, match=f"{variable} is 'ftp://hub.test', not a URL"):
        fetch()


UNSAFE = ["", ".", "..", "../a", "a/..", "a/../b", "/a", "a/", "a//b", "a\\b", "..\\a", "c:a",
          "a\0b", "a\nb", "a/./b", "a/.. /b", "\udcff", "a" * 3000]  # fmt: skip


@pytest.mark.parametrize("text", UNSAFE)
@pytest.mark.parametrize("field", ["repo", "name", "revision"])
def test_unsafe_names_are_refused(field: str, text: str, start_hub: Start) -> None:
    server, file = start_hub(), replace(PLAIN, **{field: text})
    for use in (find_hub_file, hub_url, fetch):
        with pytest.raises(UsageError) as caught:
            use(file)
        assert repr(text) in caught.value.message
    assert server.front.requests == []
    assert not Path(os.environ["EFFNET_CACHE"]).exists()


@pytest.mark.parametrize(
    "repo", ["n" * 97, "a/b/c", "a--b/c", "a/b--c", "-a/b", "a/.b", "a b/c", "ä/b"]
)
def test_odd_repositories_are_refused(repo: str) -> None:
    with pytest.raises(UsageError, match="not a repository"):
        find_hub_file(replace(PLAIN, repo=repo))


@pytest.mark.parametrize("name", ["model.sha256", "model.LOCK"])
def test_names_of_our_own_files_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="reserved suffix"):
        find_hub_file(replace(PLAIN, name=name))


def test_revisions_do_not_share_files(start_hub: Start) -> None:
    start_hub()
    fetch()
    other = start_hub(content=NEW_WEIGHTS)
    assert fetch(replace(PLAIN, revision="refs/pr/1")) == NEW_WEIGHTS
    assert fetch() == WEIGHTS
    assert len(other.front.requests) == 1


# --- tokens -------------------------------------------------------------------------------------


def test_token_is_sent_to_the_hub_only(start_hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_hub(serve.cut(MIDDLE), serve.whole)
    monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
    assert fetch() == WEIGHTS
    assert [one.authorization for one in server.front.requests] == ["Bearer hf_secret"] * 2
    assert [one.authorization for one in server.cdn.requests] == [None, None]


@pytest.mark.parametrize("variable", ["HF_TOKEN_PATH", "HF_HOME"])
def test_token_of_a_file_is_sent(
    variable: str, start_hub: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_hub()
    path = put(tmp_path / "home" / "token", b"hf_from_a_file\n")
    monkeypatch.setenv(variable, str(path if variable == "HF_TOKEN_PATH" else path.parent))
    fetch()
    assert server.front.requests[0].authorization == "Bearer hf_from_a_file"


def test_token_is_not_sent_if_the_user_does_not_want_it(
    start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_hub()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    fetch()
    assert server.front.requests[0].authorization is None


def test_token_is_not_sent_unencrypted(
    start_front: Callable[..., WeightServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_front(small(CONFIG))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(SMALL) == CONFIG
    (request,) = proxy.requests
    assert request.path.startswith("http://hub.test/")
    assert request.authorization is None


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://hub.test/a", True),
        ("https://user:password@hub.test/a", True),
        ("http://localhost:80/a", True),
        ("http://[::1]/a", True),
        ("http://hub.test/a", False),
        ("http://localhost@hub.test/a", False),
        ("http://127.0.0.1.hub.test/a", False),
        ("https://[::1", False),
    ],
)
def test_where_tokens_are_sent(url: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub._find_token(url) == ("hf_secret" if is_sent else "")


@pytest.mark.parametrize("token", ["hf_secret\nX: y", "hf secret", "hf_sécret", "hf_\x7f"])
def test_odd_token_is_refused_without_showing_it(
    token: str, start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_hub()
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match="token contains") as caught:
        fetch()
    assert token not in str(caught.value)
    assert server.front.requests == []


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("responses", "starts"),
    [
        ((serve.cut(MIDDLE), serve.whole), [None, MIDDLE]),
        ((serve.cut(MIDDLE), serve.whole_ignoring_range), [None, MIDDLE]),
        ((serve.cut(MIDDLE), serve.status(416), serve.whole), [None, MIDDLE, None]),
        ((serve.cut(MIDDLE), serve.status(503), serve.whole), [None, MIDDLE, MIDDLE]),
        ((serve.status(429), serve.status(500), serve.whole), [None] * 3),
    ],
    ids=["cut", "range ignored", "416", "503 in between", "429 and 500"],
)
def test_download_recovers(
    responses: tuple[serve.Response, ...], starts: list[int | None], start_hub: Start
) -> None:
    server = start_hub(*responses)
    assert fetch() == WEIGHTS
    assert server.cdn.starts == starts
    assert kept_parts(own_path()) == []


@pytest.mark.parametrize(
    ("responses", "reason", "requests"),
    [
        ((serve.other(NEW_WEIGHTS),), "checksum mismatch", 1),
        ((serve.other(WEIGHTS + b"\0"),), "checksum mismatch", 1),
        ((serve.other(b""),), "checksum mismatch", 1),
        ((serve.unsized,), "checksum mismatch", 1),
        ((serve.other(PAGE),), "the server sent an HTML page instead", 1),
        ((serve.other(b"version https://git-lfs.github.com/spec/v1\n"),), "a Git LFS pointer", 1),
        ((serve.cut(MIDDLE), serve.shifted), "checksum mismatch", 2),
        ((serve.cut(0),), "closed after 0 of 300,007 bytes", 4),
        ((serve.status(404),), "{cdn} returned 404 Not Found", 1),
        ((serve.status(403),), "{cdn} returned 403 Forbidden", 1),
        ((serve.status(401),), "{cdn} returned 401 Unauthorized", 1),
        ((serve.status(500),), "{cdn} returned 500 Internal Server Error", 4),
        ((serve.status(429),), "{cdn} returned 429 Too Many Requests", 4),
        ((serve.redirect_to_itself,), "302 Found again after 5 redirects", None),
        ((serve.redirect_to("file:///etc/passwd"),), "not http:// or https://", 1),
    ],
    ids=[
        "other content", "one byte more", "empty", "half", "page", "pointer", "shifted", "cut",
        "404", "403", "401", "500", "429", "redirect loop", "redirect to a file",
    ],
)  # fmt: skip
def test_failed_download_leaves_nothing(
    responses: tuple[serve.Response, ...], reason: str, requests: int | None, start_hub: Start
) -> None:
    server = start_hub(*responses)
    message = fail()
    assert reason.format(cdn=server.cdn.url.removeprefix("http://")) in message
    assert "HF_TOKEN" not in message
    assert requests in (None, len(server.cdn.requests))
    assert names(own_path()) == {f"{PLAIN.name}.lock"}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (small(CONFIG[:-1]), None),
        (serve.tagged(f'"{git_name(CONFIG)}"', content=CONFIG[:-1]), "checksum mismatch"),
        (serve.tagged(f'W/"{git_name(CONFIG)}"', content=CONFIG[:-1]), "checksum mismatch"),
        (serve.other(PAGE), "an HTML page"),
        (serve.unsized, "neither a checksum nor a length"),
        (serve.too_short(5), "closed after 300,007 of 300,012 bytes"),
        (serve.status(404), "There is no 'config.json'"),
        (serve.redirect_to_itself, "302"),
    ],
    ids=["other", "bits", "weak tag", "page", "half", "too short", "404", "redirect loop"],
)
def test_small_files_are_checked(
    response: serve.Response, reason: str | None, start_front: Callable[..., WeightServer]
) -> None:
    start_front(response)
    if reason is None:
        assert fetch(SMALL) == CONFIG[:-1]  # another version is no error without a pinned digest
    else:
        assert reason in fail(SMALL)
        assert not own_path(SMALL).exists()


@pytest.mark.parametrize(
    ("response", "reason", "hint"),
    [
        (serve.status(401), "HF_TOKEN is not set", "Check the repository and HF_TOKEN, or put"),
        (serve.status(403), "denies access (403) to timm/tf_efficientnet_b0", "Check the"),
        (serve.status(404), "There is no 'model.safetensors' in timm/tf_", "Check the repository,"),
        (serve.status(410), "the server returned 410 Gone", "Put"),
        (serve.other(PAGE), "an HTML page", "Put"),
        (serve.status(429), "429", "Try again later, or put"),
        (serve.status(500), "500", "Try again later, or put"),
        (serve.cut(0), "closed after 0", "Try again later, or put"),
    ],
    ids=["401", "403", "404", "410", "page", "429", "500", "cut"],
)
def test_only_what_may_pass_is_to_be_tried_again(
    response: serve.Response, reason: str, hint: str, start_front: Callable[..., WeightServer]
) -> None:
    start_front(response)
    with pytest.raises(EffnetError) as caught:
        fetch()
    assert reason in caught.value.message
    assert caught.value.hint.startswith(hint)


def test_hint_names_what_keeps_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EffnetError) as caught:
        fetch(offline=True)
    assert caught.value.hint == f"Omit --offline, or {ALTERNATIVE}"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EffnetError) as caught:
        fetch()
    assert caught.value.hint == f"Unset HF_HUB_OFFLINE, or {ALTERNATIVE}"


def test_token_without_access_is_named(start_hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_hub()
    server.front.responses = (serve.status(403),)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    message = fail()
    assert "(403)" in message
    assert "the token has no access to it" in message
    assert "hf_secret" not in message
    assert server.url.removeprefix("http://") in message


def test_other_digest_on_the_hub_is_refused_before_the_download(start_hub: Start) -> None:
    server = start_hub(content=NEW_WEIGHTS)
    message = fail(PINNED)
    assert lfs_name(NEW_WEIGHTS)[:8] in message
    assert lfs_name(WEIGHTS)[:8] in message
    assert len(server.front.requests) == 1
    assert server.cdn.requests == []


def test_tags_of_other_servers_are_no_digests(start_hub: Start) -> None:
    server = start_hub(serve.tagged(f'"{git_name(b"unrelated")}"'))
    server.front.responses = (serve.redirect_to(f"{server.cdn.url}/blob"),)
    assert fetch() == WEIGHTS


def test_pinned_digest_is_checked_if_the_hub_sends_none(
    start_front: Callable[..., WeightServer],
) -> None:
    start_front(serve.other(NEW_WEIGHTS), serve.whole)
    assert "checksum mismatch" in fail(PINNED)
    assert fetch(PINNED) == WEIGHTS


@pytest.mark.parametrize(("asked", "slept"), [(7, 7.0), (100, 10.0), ("soon", 0.0)])
def test_requested_pause_is_kept(
    asked: object, slept: float, start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    start_hub(serve.status(429, Retry_After=asked), serve.whole)
    assert fetch() == WEIGHTS
    assert pauses == [0.0, slept]


def test_stalled_connection_is_resumed(start_hub: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STALL_SECONDS", 0.3)
    server = start_hub(serve.stalled(MIDDLE), serve.whole)
    assert fetch() == WEIGHTS
    assert (server.cdn.starts[1] or 0) <= MIDDLE


def test_silent_hub_times_out(
    start_front: Callable[..., WeightServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.3)
    server, start = start_front(serve.silent), time.monotonic()
    assert "does not respond" in fail()
    assert time.monotonic() - start < SECONDS
    assert len(server.requests) == 1


def test_closed_port_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        start = time.monotonic()
        assert "refused" in fail()
    assert time.monotonic() - start < SECONDS


def test_unreachable_hub_is_reported_at_once_in_spite_of_a_part(
    start_hub: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_hub(serve.cut(MIDDLE), serve.status(404))
    fail()
    assert len(kept_parts(own_path())) == 1
    monkeypatch.setattr(http, "open_url", lambda *_, **__: pytest.fail("not used"))
    attempts: list[float] = []
    monkeypatch.setattr(download.time, "sleep", attempts.append)
    monkeypatch.setenv("HF_ENDPOINT", UNREACHABLE)
    assert "refused" in fail()
    assert attempts == [0.0]


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b", "http://127.0.0.1:x"])
def test_invalid_base_is_reported(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert "Cannot download" in fail()


def test_credentials_of_the_base_are_not_shown(
    start_front: Callable[..., WeightServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, reporter = start_front(serve.status(500)), RecordingReporter()
    monkeypatch.setenv("HF_ENDPOINT", server.url.replace("://", "://user:secret@"))
    with pytest.raises(EffnetError) as caught:
        fetch_hub_file(PLAIN, reporter=reporter, alternative=ALTERNATIVE)
    assert "secret" not in f"{caught.value} {reporter.text}"


# --- resuming -----------------------------------------------------------------------------------


def interrupt(start_hub: Start, file: HubFile = PLAIN, content: bytes = WEIGHTS) -> Path:
    """Download the first MIDDLE bytes; return the partial file."""
    start_hub(serve.cut(MIDDLE), serve.status(404), content=content)
    fail(file)
    (part,) = kept_parts(own_path(file))
    assert part.name.startswith(".")
    assert part.stat().st_size == MIDDLE
    return part


@pytest.mark.parametrize("file", [PLAIN, PINNED], ids=["plain", "pinned"])
def test_next_run_continues(file: HubFile, start_hub: Start) -> None:
    interrupt(start_hub, file)
    server = start_hub()
    assert fetch(file) == WEIGHTS
    assert server.cdn.starts == [MIDDLE]
    assert kept_parts(own_path()) == []


def test_next_run_starts_anew_if_the_file_has_changed(start_hub: Start) -> None:
    interrupt(start_hub)
    server = start_hub(content=NEW_WEIGHTS)
    assert fetch() == NEW_WEIGHTS
    assert server.cdn.starts == [MIDDLE, None]
    assert kept_parts(own_path()) == []


def test_damaged_part_is_discarded(start_hub: Start) -> None:
    interrupt(start_hub).write_bytes(NEW_WEIGHTS[:MIDDLE])
    server = start_hub()
    assert "checksum mismatch" in fail()
    assert fetch() == WEIGHTS
    assert server.cdn.starts == [MIDDLE, None]


@pytest.mark.parametrize(
    ("first", "second", "starts"),
    [
        ('"v1"', '"v1"', [MIDDLE]),
        ('"v1"', '"v2"', [MIDDLE, None]),
        ('W/"v1"', 'W/"v1"', [None]),
    ],
    ids=["same", "changed", "weak"],
)
def test_files_without_digest_are_continued_if_their_tag_is_the_same(
    first: str, second: str, starts: list[int | None], start_front: Callable[..., WeightServer]
) -> None:
    start_front(serve.tagged(first, MIDDLE), serve.status(404))
    fail()
    server = start_front(serve.tagged(second))
    assert fetch() == WEIGHTS
    assert server.starts == starts


def test_parts_of_other_files_are_left_alone(start_hub: Start) -> None:
    long_name = "a" * 60
    one, other = (replace(PLAIN, name=f"{long_name}{number}") for number in "12")
    part = interrupt(start_hub, one)
    start_hub()
    fetch(other)
    fetch()
    assert kept_parts(own_path(one)) == [part]
    server = start_hub()
    assert fetch(one) == WEIGHTS
    assert server.cdn.starts == [MIDDLE]


def start_process() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", FETCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_download_is_continued(start_hub: Start) -> None:
    server = start_hub(serve.stalled(MIDDLE), serve.whole)
    process = start_process()
    assert wait_until(
        lambda: any(part.stat().st_size > MIDDLE // 2 for part in kept_parts(own_path())), 30
    )
    process.kill()
    process.communicate()
    assert find_hub_file(PLAIN) is None
    assert not own_path().exists()
    assert fetch() == WEIGHTS
    first, second = server.cdn.starts
    assert first is None
    assert MIDDLE // 2 < (second or 0) <= MIDDLE


def test_eight_processes_make_one_download(start_hub: Start) -> None:
    server = start_hub()
    processes = [start_process() for _ in range(8)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [stdout.strip() for stdout, _ in outputs] == [str(own_path())] * 8, outputs
    assert len(server.front.requests) == len(server.cdn.requests) == 1
    assert own_path().read_bytes() == WEIGHTS
    assert kept_parts(own_path()) == []


# --- properties ---------------------------------------------------------------------------------

RESPONSES = [
    serve.whole, serve.cut(0), serve.cut(MIDDLE), serve.cut(2 * MIDDLE), serve.too_short(10),
    serve.other(NEW_WEIGHTS), serve.other(PAGE), serve.status(404), serve.status(416),
    serve.status(429), serve.status(503), serve.whole_ignoring_range, serve.shifted, serve.unsized,
]  # fmt: skip


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.tuples(
            st.lists(st.sampled_from(RESPONSES), min_size=1, max_size=4),
            st.sampled_from([WEIGHTS, NEW_WEIGHTS]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_only_whole_files_are_returned(
    runs: list[tuple[list[serve.Response], bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever servers do, the file is what the hub has, or there is none."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    for responses, content in runs:
        with HubServer(content, *responses) as server:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            try:
                path = fetch_hub_file(PLAIN, alternative=ALTERNATIVE)
            except EffnetError:
                assert find_hub_file(PLAIN) is None
            else:
                assert path.read_bytes() == content
                path.unlink()


@given(damage=st.binary(max_size=40), at=st.integers(0, len(CONFIG)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_intact_files_are_found(damage: bytes, at: int) -> None:
    content = CONFIG[:at] + damage + CONFIG[at + len(damage) :]
    put_library(content, SMALL, blob=git_name(CONFIG))
    put_library(content, PLAIN, blob=lfs_name(CONFIG))
    for file in (SMALL, PLAIN):
        path = find_hub_file(file)
        assert (path is not None) == (content == CONFIG)
