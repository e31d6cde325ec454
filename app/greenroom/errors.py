"""What can go wrong, one class each: the HTTP status and the sentence travel with the class."""

from collections.abc import Mapping, Sequence
from typing import ClassVar
from uuid import UUID


class AppError(Exception):
    """The root of our errors. `str(error)` is the sentence that a client may read."""

    status: int = 500


class ConfigError(AppError):
    """The environment or langgraph.json cannot be used as it is; names the thing and the remedy."""


class Refused(AppError):
    """The caller is not known, or may not do this: what the owner's handler says, as it says it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}


class BadRequest(AppError):
    """The request contradicts itself, or asks what this resource cannot do."""

    status = 400


class InvalidRequest(AppError):
    """A field of the request has the wrong type, form or range; the sentence names the field."""

    status = 422


class NotFound(AppError):
    """Nothing of that name that the caller may see."""

    status = 404

    def __init__(self, message: str = "Not Found") -> None:
        super().__init__(message)


class ThreadNotFound(NotFound):
    """No such thread."""

    def __init__(self, thread_id: UUID) -> None:
        super().__init__(f"Thread with ID {thread_id} not found")


class RunNotFound(NotFound):
    """No such run on this thread."""

    def __init__(self, message: str = "Run not found") -> None:
        super().__init__(message)


class GraphNotFound(NotFound):
    """langgraph.json has no graph of that id."""

    def __init__(self, graph_id: str, known: Sequence[str]) -> None:
        super().__init__(f"Graph '{graph_id}' not found. Expected one of: {sorted(known)}")


class Conflict(AppError):
    """The resource exists already, or is in a state that forbids the request."""

    status = 409


class ThreadBusy(Conflict):
    """The thread has an active run and the request does not want to wait for it."""

    def __init__(self) -> None:
        super().__init__(
            "Thread is already running a task. Wait for it to finish or choose a different "
            "multitask strategy."
        )


class ThreadStatusDiffers(Conflict):
    """The request wants the thread in another state than it is in."""

    def __init__(self, thread_id: UUID, status: str) -> None:
        super().__init__(f"Thread {thread_id} is {status}, which if_thread_status does not allow")


class KeyReused(Conflict):
    """The Idempotency-Key came before, with another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for a different request")


class BodyTooLarge(AppError):
    """The request body is longer than HTTP_MAX_REQUEST_BODY_BYTES."""

    status = 413


class Unavailable(AppError):
    """Something that we need is down for the moment; the client should try again."""

    status = 503
    retry_after_seconds: ClassVar[int] = 2


class DatabaseUnavailable(Unavailable):
    """Postgres cannot be reached, is shutting down, or refused for a passing reason."""


class GraphsUnavailable(Unavailable):
    """The graphs process does not answer."""


class GraphFault(AppError):
    """The user's graph code raised while it was being loaded, drawn or read."""


class LeaseLost(AppError):
    """Another worker owns the run now: whatever this one still does counts for nothing."""
