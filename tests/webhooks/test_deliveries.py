"""From a row that is owed to a receiver that has it: retries, leases, fairness, the sweep."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from deployment import Deployment, until
from sqlalchemy import text

from greenroom.config import Config, Project
from greenroom.database.tables import webhook_delivery
from greenroom.identifiers import new_id
from greenroom.webhooks.settings import Rules, Settings
from greenroom_workers.deliveries import MAX_ATTEMPTS, SENDERS_PER_HOST, Deliveries, sweep

HERE = Settings(Rules(disable_loopback=False))


@contextmanager
def delivering(engines: Deployment, settings: Settings = HERE) -> Iterator[Deliveries]:
    """Deliver with these settings meanwhile."""
    config = Config(
        database_uri=engines.postgres.uri,
        redis_uri="",
        project=Project(directory=Path(), graphs={}),
        # Never by chance: who makes something due, rings.
        sweep_seconds=3600,
    )
    deliveries = Deliveries(config, engines.database, settings)
    deliveries.start()
    try:
        yield deliveries
    finally:
        deliveries.stop()


def owe(engines: Deployment, url: str, **fields: Any) -> UUID:
    """Write a row as the end of a stateless run does."""
    delivery_id = new_id()
    values = {
        "delivery_id": delivery_id,
        "run_id": uuid4(),
        "thread_id": uuid4(),
        "url": url,
        "host": url.split("/")[2],
        "body": {"n": 1},
        **fields,
    }
    with engines.database.statement() as connection:
        connection.execute(webhook_delivery.insert().values(values))
    return delivery_id


def row(engines: Deployment, delivery_id: UUID) -> Any:
    with engines.database.statement() as connection:
        query = (
            "SELECT *, extract(epoch FROM next_attempt_at - now()) AS wait_seconds "
            "FROM webhook_delivery WHERE delivery_id = :delivery_id"
        )
        return connection.execute(text(query), {"delivery_id": delivery_id}).one_or_none()


def make_due(engines: Deployment, delivery_id: UUID) -> None:
    """Let the time pass for one delivery."""
    with engines.database.statement() as connection:
        connection.execute(
            text("UPDATE webhook_delivery SET next_attempt_at = now() WHERE delivery_id = :id"),
            {"id": delivery_id},
        )


def until_recorded(engines: Deployment, delivery_id: UUID, attempt: int) -> Any:
    """Wait for the end of an attempt."""

    def recorded() -> Any:
        found = row(engines, delivery_id)
        has_ended = found.last_status is not None or found.last_error is not None
        return found if found.attempts == attempt and has_ended else None

    return until(recorded)


def test_a_delivery_that_succeeds_is_over(engines: Deployment, receiver) -> None:
    """The log keeps that it was, not what was in it."""
    delivery_id = owe(engines, receiver.url)
    with delivering(engines):
        done = until_recorded(engines, delivery_id, 1)
    assert (done.last_status, done.last_error, done.next_attempt_at) == (200, None, None)
    assert done.delivered_at is not None
    assert done.body is None


@pytest.mark.parametrize("status", [500, 503, 408, 429])
def test_a_passing_trouble_is_tried_again_later(
    engines: Deployment, make_receiver, status: int
) -> None:
    """Soon at first, then less often, until it works; each attempt with the same id."""
    receiver = make_receiver(status, status, 204)
    delivery_id = owe(engines, receiver.url)
    waits = []
    with delivering(engines) as deliveries:
        for attempt in (1, 2):
            found = until_recorded(engines, delivery_id, attempt)
            assert found.last_status == status
            assert found.last_error == f"answered with HTTP {status}"
            waits.append(float(found.wait_seconds))
            with engines.database.statement() as connection:
                connection.execute(
                    text(
                        "UPDATE webhook_delivery SET next_attempt_at = now(), last_status = NULL, "
                        "last_error = NULL WHERE delivery_id = :id"
                    ),
                    {"id": delivery_id},
                )
            deliveries.wake()
        done = until_recorded(engines, delivery_id, 3)
    assert 3 < waits[0] <= 6
    assert 19 < waits[1] <= 30
    assert done.delivered_at is not None
    assert {got.headers["greenroom-delivery"] for got in receiver.received} == {str(delivery_id)}


@pytest.mark.parametrize("status", [400, 401, 404, 410, 303, 304])
def test_an_answer_that_blames_the_request_is_final(
    engines: Deployment, make_receiver, status: int
) -> None:
    """The same request would earn the same answer."""
    delivery_id = owe(engines, make_receiver(status).url)
    with delivering(engines):
        done = until_recorded(engines, delivery_id, 1)
    assert (done.next_attempt_at, done.delivered_at, done.last_status) == (None, None, status)


def test_a_refused_address_is_final(engines: Deployment, receiver) -> None:
    """Nothing is sent to where the owner's rules forbid it, now or later."""
    delivery_id = owe(engines, receiver.url)
    with delivering(engines, Settings(Rules())):
        done = until_recorded(engines, delivery_id, 1)
    assert done.next_attempt_at is None
    assert "loopback" in done.last_error
    assert receiver.received == []


def test_a_name_that_does_not_resolve_is_tried_again(engines: Deployment) -> None:
    """It did when the run was created."""
    delivery_id = owe(engines, "http://gone.invalid/")
    with delivering(engines):
        found = until_recorded(engines, delivery_id, 1)
    assert found.next_attempt_at is not None
    assert "does not resolve" in found.last_error


def test_the_last_attempt_is_the_last(engines: Deployment, make_receiver) -> None:
    """What is not delivered within about an hour is given up, and kept to be read."""
    delivery_id = owe(engines, make_receiver(500).url, attempts=MAX_ATTEMPTS - 1)
    with delivering(engines):
        done = until_recorded(engines, delivery_id, MAX_ATTEMPTS)
    assert (done.next_attempt_at, done.delivered_at) == (None, None)
    assert done.body is not None


def test_switched_off_means_that_nothing_is_sent(engines: Deployment, receiver) -> None:
    """`http.disable_webhooks`; the log says why."""
    delivery_id = owe(engines, receiver.url)
    with delivering(engines, Settings(Rules(disable_loopback=False), is_enabled=False)):
        done = until_recorded(engines, delivery_id, 1)
    assert "switched off" in done.last_error
    assert receiver.received == []


def test_an_attempt_whose_lease_ran_out_changes_nothing(engines: Deployment, make_receiver) -> None:
    """Another process has made a later attempt meanwhile: its record counts."""
    release = threading.Event()
    receiver = make_receiver(lambda: release.wait(30) and 500)
    delivery_id = owe(engines, receiver.url)
    with delivering(engines) as slow:
        receiver.wait_for(1)
        make_due(engines, delivery_id)
        with delivering(engines):
            done = until_recorded(engines, delivery_id, 2)
        release.set()
        # Its loop ends when its attempt has been recorded.
        slow.stop()
    assert row(engines, delivery_id) == done
    assert done.delivered_at is not None
    assert len(receiver.received) == 2


def test_a_slow_receiver_does_not_delay_the_others(engines: Deployment, make_receiver) -> None:
    """It has only so many senders, however much it is owed."""
    release = threading.Event()
    backlog = 3 * SENDERS_PER_HOST
    slow = make_receiver(*[lambda: release.wait(30) and 200] * backlog)
    quick = make_receiver()
    owed = [owe(engines, slow.url) for _ in range(backlog)]
    with delivering(engines) as deliveries:
        slow.wait_for(SENDERS_PER_HOST)
        delivery_id = owe(engines, quick.url)
        deliveries.wake()
        assert until_recorded(engines, delivery_id, 1).delivered_at
        assert len(slow.received) == SENDERS_PER_HOST
        release.set()
        for one in owed:
            assert until_recorded(engines, one, 1).delivered_at
    assert len(slow.received) == backlog


def test_many_senders_send_each_delivery_once(engines: Deployment, receiver) -> None:
    """However many processes look for work at the same time."""
    owed = {str(owe(engines, receiver.url)) for _ in range(60)}
    with delivering(engines), delivering(engines), delivering(engines):
        for one in owed:
            until_recorded(engines, UUID(one), 1)
    assert sorted(got.headers["greenroom-delivery"] for got in receiver.received) == sorted(owed)


def test_the_sweep_forgets_what_ended_a_week_ago(engines: Deployment) -> None:
    """And ends what was lost at its last attempt; what is still owed stays."""
    week = text("now() - interval '8 days'")
    url = "http://gone.invalid/"
    old = owe(engines, url, created_at=week, next_attempt_at=None)
    owed = owe(engines, url, created_at=week, next_attempt_at=text("now() + interval '1 h'"))
    young = owe(engines, url, next_attempt_at=None)
    lost = owe(engines, url, attempts=MAX_ATTEMPTS)
    with engines.database.statement() as connection:
        sweep(connection)
    assert row(engines, old) is None
    assert row(engines, owed).next_attempt_at is not None
    assert row(engines, young) is not None
    assert row(engines, lost).next_attempt_at is None
    assert "lost" in row(engines, lost).last_error


def test_a_bell_while_nothing_is_owed_does_no_harm(
    engines: Deployment, make_receiver: Callable[..., Any]
) -> None:
    """It may ring at any time, from any thread."""
    with delivering(engines) as deliveries:
        for _ in range(100):
            deliveries.wake()
        receiver = make_receiver()
        delivery_id = owe(engines, receiver.url)
        deliveries.wake()
        until_recorded(engines, delivery_id, 1)
    assert len(receiver.received) == 1
