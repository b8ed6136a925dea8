"""Files that appear whole or not at all, locks between processes, and cached digests."""

import errno
import glob
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from effnet_cli.system.errors import EffnetError

DIGEST_CHARS = 16  # hexadecimal digits of a SHA-256 in a file name
LOCK_SECONDS = 600  # how long to wait for another process that makes or downloads the same file
PART_SUFFIX = ".part"
KEPT_CHARS = 8  # hexadecimal digits of each of the two digests in the name of a kept part
CHUNK_BYTES = 1 << 20
NO_CACHE = Path(os.devnull, "effnet")  # a folder that nobody can create
STAMPED = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
PART_PREFIX_CHARS = 50  # of the final name: names may have 255 bytes, and characters up to 4 bytes


def cache_dir() -> Path:
    """Return `EFFNET_CACHE`, else the user's cache folder of the platform; it may not exist yet."""
    try:
        return Path(os.environ.get("EFFNET_CACHE") or user_cache_dir("effnet", appauthor=False))
    except RuntimeError:  # a user without a home, as in many containers
        return NO_CACHE


def compiled_dir() -> Path:
    """Return the folder of compiled models: `VARIANT-WEIGHTS_DIGEST-GRAPH_VERSION-DIGEST.onnx`."""
    return cache_dir() / "compiled"


def is_file(path: Path) -> bool:
    """Return whether `path` is a regular file; `False` if its folder cannot be read."""
    try:
        return path.is_file()
    except OSError:
        return False


def list_files(folder: Path, pattern: str) -> list[Path]:
    """Return the paths in `folder` that match `pattern`; none if the folder cannot be read."""
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def partial_path(path: Path) -> Path:
    """Return a new hidden path beside `path`, for what is written before it replaces `path`."""
    return path.with_name(f".{path.name[:PART_PREFIX_CHARS]}.{secrets.token_hex(8)}{PART_SUFFIX}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block ends without an error.

    Raises:
        EffnetError: the folder or the file cannot be written (no space, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = partial_path(path)
        part.touch(exist_ok=False)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield part
        _replace(path, part)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _replace(path: Path, part: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    if path.exists():  # a private file stays private
        part.chmod(stat.S_IMODE(path.stat().st_mode))
    part.replace(path)


def commit_part(part: Path, path: Path) -> None:
    """Replace `path` with the complete partial file `part`; a part that cannot be is deleted.

    Raises:
        EffnetError: the folder or the file cannot be written (no space, no permission).
    """
    try:
        _replace(path, part)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from error


def kept_parts(path: Path) -> list[Path]:
    """Return the partial files of `path` that interrupted downloads left, to be continued.

    Unlike those of `atomic_write`, their names are the same in every run (see `kept_part`).
    """
    names = f"{glob.escape(_kept_prefix(path))}{'[0-9a-f]' * KEPT_CHARS}{PART_SUFFIX}"
    return list_files(path.parent, names)


def kept_part(path: Path, version: str) -> Path:
    """Return the partial file for one version of `path`'s content.

    The version is in the name, so that no crash can separate the two. The full name of `path` is
    in it too, as a digest: downloads of files whose names begin alike must not share a part.
    """
    return path.with_name(f"{_kept_prefix(path)}{_short_digest(version)}{PART_SUFFIX}")


def _kept_prefix(path: Path) -> str:
    return f".{path.name[:PART_PREFIX_CHARS]}.{_short_digest(path.name)}"


def _short_digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:KEPT_CHARS]


def remove_partial_files(folder: Path, prefix: str) -> None:
    """Delete partial files that killed processes left and whose final names start with `prefix`.

    The caller must hold the lock of that file.
    """
    for part in folder.glob(f".{glob.escape(prefix[:PART_PREFIX_CHARS])}*{PART_SUFFIX}"):
        with suppress(OSError):
            part.unlink()


def cannot_write(path: Path, error: OSError) -> EffnetError:
    """Return the error to show if `path` cannot be written."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "Free some space, or choose another location." if is_full else "Choose another location."
    return EffnetError(f"Cannot write {str(path)!r}: {error.strerror or error}.", hint)


@contextmanager
def process_lock(path: Path, busy: EffnetError | None = None) -> Iterator[Path]:
    """Hold the lock of `path`, so that only one process creates it while the others wait, or fail
    with the error `busy` if that is given. Yield the path of the lock file, which is kept.

    Raises:
        EffnetError: the folder cannot be written, or the lock stays taken for LOCK_SECONDS.
    """
    from filelock import FileLock, Timeout  # 8 ms, and only new files need it

    lock = FileLock(f"{path}.lock", timeout=0 if busy else LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        if not os.path.lexists(lock.lock_file):  # it cannot be created, as in /proc
            missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            raise cannot_write(path, missing) from error
        raise busy or EffnetError(
            f"Another process has held {lock.lock_file!r} for {LOCK_SECONDS} s.",
            "Stop that process, or delete the lock file.",
        ) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield Path(lock.lock_file)
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """Return the name that git gives to a file's bytes, in hexadecimal."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, recomputed only if something about the file has changed.

    Images of containers and archives set all modification times to the same value, so the time of
    the last change of the file's entry counts too, which no program can set.

    If the digest has changed, compiled models of the old one are deleted. If the cache cannot be
    written, the digest is computed each time.

    Raises:
        EffnetError: the file cannot be read.
    """
    try:
        status = path.stat()
        resolved = str(path.resolve())
        identity = {"path": resolved, **{name: getattr(status, name) for name in STAMPED}}
        key = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:DIGEST_CHARS]
        stamp = cache_dir() / "stamps" / f"{key}.json"
        known = _read_stamp(stamp)
        digest = known.get("sha256")
        if isinstance(digest, str) and known == {**identity, "sha256": digest}:
            return digest
        new = sha256(path)
    except PermissionError as error:
        raise EffnetError(f"Cannot read {str(path)!r}.", "Check its permissions.") from error
    with suppress(EffnetError), atomic_write(stamp) as part:
        part.write_text(json.dumps({**identity, "sha256": new}), encoding="ascii")
    if isinstance(digest, str) and digest != new:
        for compiled in list_files(compiled_dir(), f"*-{digest[:DIGEST_CHARS]}-*"):
            with suppress(OSError):
                compiled.unlink()
    return new


def _read_stamp(stamp: Path) -> dict[str, object]:
    try:
        content = json.loads(stamp.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
