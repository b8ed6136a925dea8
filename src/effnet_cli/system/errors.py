"""Errors that are shown to the user: one sentence with the offending value, one instruction."""

CHECK_FAILED_STATUS = 3  # exit status: a check that the user asked for has failed


class EffnetError(Exception):
    """An error that is shown without a traceback.

    Args:
        message: one sentence that contains the offending value.
        hint: one sentence that says what to do next.
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
    """The reason why an image has no prediction.

    Args:
        kind: one of `effnet_cli.options.ErrorKind`, a fixed list that programs can rely on.
    """

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.kind = kind

    def without_traceback(self) -> "ImageError":
        """Return a copy to keep: the frames of the traceback would keep the image in memory."""
        return ImageError(self.kind, self.message, self.hint)


class OutputClosed(Exception):
    """The reader of stdout is gone (`| head -1`): stop right away, without a message."""
