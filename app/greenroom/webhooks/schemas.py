"""Deliveries of webhooks on the wire; our own addition to the contract."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from greenroom.contract.fields import WireModel


class Delivery(WireModel):
    """One delivery and how far it has come."""

    delivery_id: UUID
    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    last_status: int | None
    """The receiver's last answer; None: it has given none."""
    last_error: str | None
    """Why the last attempt failed; None once it is delivered."""
    next_attempt_at: datetime | None
    """While an attempt is under way: when it counts as lost. None: there will be none."""
    created_at: datetime
    delivered_at: datetime | None
