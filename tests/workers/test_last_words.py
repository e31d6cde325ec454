"""The ends of runs reach Redis in their order, though nobody waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from deployment import until

from greenroom.cli.embedded import EmbeddedRedis
from greenroom_workers.last_words import MANY, LastWords

CHANNEL = "test:ends"


@contextmanager
def listening(client: redis.Redis) -> Iterator[redis.client.PubSub]:
    """Somebody listens."""
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(CHANNEL)
        until(lambda: client.pubsub_numsub(CHANNEL)[0][1] == 1)
        yield pubsub


@pytest.fixture
def heard(client: redis.Redis) -> Iterator[redis.client.PubSub]:
    """Who listens from the beginning."""
    with listening(client) as pubsub:
        yield pubsub


@pytest.fixture
def words(client: redis.Redis) -> Iterator[LastWords]:
    """What is tested; closed afterwards."""
    made = LastWords(client)
    yield made
    made.close()


def take(heard: redis.client.PubSub, count: int) -> list[int]:
    """So many messages, as numbers."""
    taken: list[int] = []
    while len(taken) < count:
        message = heard.get_message(timeout=10)
        if message is not None:
            taken.append(int(message["data"]))
    return taken


def numbered(*numbers: int) -> list[bytes]:
    """Messages."""
    return [str(number).encode() for number in numbers]


def connections_of(client: redis.Redis) -> int:
    """How many clients Redis has, ourselves included."""
    return int(client.info("clients")["connected_clients"])


def test_many_arrive_in_order(heard: redis.client.PubSub, words: LastWords) -> None:
    """Also more than Redis's answers are left unread for."""
    for number in range(0, 5 * MANY, 2):
        assert words.send(CHANNEL, numbered(number, number + 1))
    assert take(heard, 5 * MANY) == list(range(5 * MANY))


def test_what_was_sent_before_the_close_arrives(
    client: redis.Redis, heard: redis.client.PubSub
) -> None:
    """A connection that ends with answers unread would take what is on its way along."""
    before = connections_of(client)
    words = LastWords(client)
    assert words.send(CHANNEL, numbered(*range(MANY - 1)))
    words.close()
    assert take(heard, MANY - 1) == list(range(MANY - 1))
    until(lambda: connections_of(client) == before)


def test_a_connection_that_redis_has_ended_is_replaced(
    client: redis.Redis, heard: redis.client.PubSub, words: LastWords
) -> None:
    """One message may go with it, or be refused; what follows arrives."""
    assert words.send(CHANNEL, numbered(1))
    assert take(heard, 1) == [1]
    client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: words.send(CHANNEL, numbered(2)) and client.ping())
    until(lambda: words.send(CHANNEL, numbered(3)))
    while take(heard, 1) != [3]:
        pass


def test_a_redis_that_is_away_is_told_of(valkey: EmbeddedRedis, client: redis.Redis) -> None:
    """The caller tries elsewhere, and the next one here again."""
    words = LastWords(client)
    assert words.send(CHANNEL, numbered(1))
    valkey.__exit__()
    until(lambda: not words.send(CHANNEL, numbered(2)))
    assert not words.send(CHANNEL, numbered(3))
    words.close()


def test_a_message_that_is_refused_is_no_dead_connection(
    client: redis.Redis, words: LastWords
) -> None:
    """Redis answers with an error: those that follow it go the same way."""
    client.acl_setuser("default", enabled=True, reset_channels=True)
    for _ in range(2 * MANY):
        assert words.send(CHANNEL, numbered(1))
    client.acl_setuser("default", enabled=True, channels=["*"])
    with listening(client) as heard:
        assert words.send(CHANNEL, numbered(2))
        assert take(heard, 1) == [2]
