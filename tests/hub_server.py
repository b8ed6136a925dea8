"""A model hub on this machine: one server that knows the files, and another one that has them."""

import hashlib
from types import TracebackType

import weight_server as serve
from weight_server import WeightServer

COMMIT_ID = "c0ffee" + 34 * "0"


def git_name(content: bytes) -> str:
    """Return the digest that a hub uses for small files."""
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def lfs_name(content: bytes) -> str:
    """Return the digest that a hub uses for large files."""
    return hashlib.sha256(content).hexdigest()


def small(content: bytes) -> serve.Response:
    """Send a small file at once, as hubs do."""
    return serve.tagged(f'"{git_name(content)}"', content=content)


def linked(url: str, digest: str, size: int) -> serve.Response:
    """Redirect to a large file on another server."""
    return lambda handler, _: handler.send(
        302,
        Location=url,
        X_Linked_Etag=f'"{digest}"',
        X_Linked_Size=size,
        X_Repo_Commit=COMMIT_ID,
    )


def repository(*commits: dict[str, bytes]) -> serve.Response:
    """Send the files of a repository's commits `1`, `2` and so on; `main` is the last."""
    names = {str(number): number for number in range(1, 1 + len(commits))}
    names["main"] = len(commits)

    def respond(handler: serve.Handler, _: bytes) -> None:
        revision, name = handler.path.split("/")[-2:]
        number = names.get(revision, 0)
        content = commits[number - 1].get(name) if number else None
        if content is None:
            handler.send(404, X_Repo_Commit=str(number))
        else:
            etag = f'"{git_name(content)}"'
            handler.send(200, content, ETag=etag, X_Repo_Commit=str(number))

    return respond


class HubServer:
    """Redirects every request to the file `content` on its second server, `cdn`, which sends
    `responses` in order. The digest that the hub claims for it is `digest`.
    """

    def __init__(self, content: bytes, *responses: serve.Response, digest: str = "") -> None:
        sent = responses or (serve.tagged('"0123456789abcdef0123456789abcdef"'),)
        self.cdn = WeightServer(content, *sent)
        self.front = WeightServer(
            b"", linked(f"{self.cdn.url}/blob", digest or lfs_name(content), len(content))
        )

    @property
    def url(self) -> str:
        return self.front.url

    def __enter__(self) -> "HubServer":
        self.cdn.__enter__()
        self.front.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.front.__exit__(kind, error, trace)
        self.cdn.__exit__(kind, error, trace)
