"""What a command can be refused with: the protocol's own codes, in answers that are HTTP 200."""


class CommandError(Exception):
    """A command that is not carried out. `str(error)` is the sentence that a client may read."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgument(CommandError):
    """A parameter is missing or wrong; the sentence names it."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_argument", message)


class NoSuchRun(CommandError):
    """The thread has no run of the kind that the command is about."""

    def __init__(self, message: str) -> None:
        super().__init__("no_such_run", message)


class NoSuchInterrupt(CommandError):
    """Nothing on the thread waits for this answer."""

    def __init__(self, interrupt_id: str) -> None:
        super().__init__(
            "no_such_interrupt", f"Unknown or already-consumed interrupt: {interrupt_id}"
        )
