"""An application that cannot tell what it does."""

from starlette.applications import Starlette


class Undescribed(Starlette):
    """Fails where FastAPI would describe itself."""

    def openapi(self) -> None:
        """Go wrong."""
        raise RuntimeError("secret detail of the owner's code")


app = Undescribed()
