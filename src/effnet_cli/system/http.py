"""Asking web servers, within bounded time."""

import socket
import threading
import urllib.error
import urllib.request
from http.client import HTTPMessage
from queue import Empty, Queue
from typing import IO, Any

SCHEMES = ("http://", "https://")
# Without a network a person waits no longer than this for the first byte; name look-ups alone may
# take minutes.
CONNECT_SECONDS = 4.0
STALL_SECONDS = 10.0
MAX_REDIRECTS = 5


def open_url(url: str, start: int = 0) -> Any:
    """The server's answer from byte `start` on, within CONNECT_SECONDS whatever hangs (name
    look-up, connection).

    Raises:
        OSError, ValueError, http.client.HTTPException: there is none; `describe_failure` says why.
    """
    headers = {"User-Agent": "effnet", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if not url.lower().startswith(SCHEMES):
        raise ValueError("only http:// and https:// are asked")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (checked)
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            opener = urllib.request.build_opener(_Redirects)
            answers.put(opener.open(request, timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except Empty:
        raise TimeoutError("no answer") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and none to another scheme."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(SCHEMES):
            reason = "it leads to another kind of address"
            raise urllib.error.HTTPError(newurl, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def describe_failure(error: Exception) -> str:
    """Why there is no answer, in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {str(error.reason).partition(chr(10))[0]}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "the server does not answer"
    if isinstance(reason, socket.gaierror):
        return "its name cannot be looked up (no network?)"
    words = str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
    return " ".join(words.split()).rstrip(".")  # a server's own words may have line ends
