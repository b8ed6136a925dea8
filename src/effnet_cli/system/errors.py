"""The errors a person can cause: one sentence with the offending value, one with what to do
next.
"""


class EffnetError(Exception):
    """An error shown to a person without a traceback.

    Args:
        message: one sentence that holds the offending value.
        hint: one sentence with the next thing to type.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


class UsageError(EffnetError):
    """Wrong use: a bad option, a refused file or model (exit status 2)."""

    exit_status = 2


class ImageError(EffnetError):
    """One image that cannot be answered.

    Args:
        kind: one of `effnet_cli.options.FaultKind`, fixed so that programs can rely on it.
    """

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.kind = kind

    def without_traceback(self) -> "ImageError":
        """The same, to be kept: not with the frames that raised it, which hold the image's bytes
        and, through their callers, the error itself.
        """
        return ImageError(self.kind, self.message, self.hint)


class OutputClosed(Exception):
    """The reader of stdout has gone (`| head -1`): stop at once and in silence."""
