"""Commands on a connection of their own."""

import asyncio

import pytest
import redis

from greenroom.cli.embedded import EmbeddedRedis
from greenroom.signals.connection import connect, connect_async
from greenroom.signals.straight import AsyncStraight, Straight


def test_what_is_asked_together_is_answered_in_order(valkey: EmbeddedRedis) -> None:
    """Bytes, numbers, lists and nothing."""
    straight = Straight(connect(valkey.uri))
    assert straight.ask(("RPUSH", "straight", b"a", "b", "c")) == [3]
    assert straight.ask(("BLPOP", "straight", 1.0), ("LPOP", "straight", 5)) == [
        [b"straight", b"a"],
        [b"b", b"c"],
    ]
    assert straight.ask(("BLPOP", "straight", 0.01), ("LPOP", "straight", 5)) == [None, None]


def test_a_connection_that_was_cut_costs_nothing(valkey: EmbeddedRedis) -> None:
    """As after a restart: the same is asked again, on a new one."""
    client = connect(valkey.uri)
    straight = Straight(client)
    (own,) = straight.ask(("CLIENT", "ID"))
    client.client_kill_filter(_id=str(own))
    (new,) = straight.ask(("CLIENT", "ID"))
    assert new > own


def test_after_a_refusal_no_answer_is_taken_for_another(valkey: EmbeddedRedis) -> None:
    """What had been asked together with it is given up."""
    straight = Straight(connect(valkey.uri))
    with pytest.raises(redis.ResponseError):
        straight.ask(("NO-SUCH-COMMAND",), ("ECHO", "late"))
    assert straight.ask(("ECHO", "now")) == [b"now"]


def test_silence_is_told_once(valkey: EmbeddedRedis) -> None:
    """What may still be on its way is not asked for again; the next question is answered."""
    straight = Straight(connect(valkey.uri, socket_timeout=0.2))
    with pytest.raises(redis.TimeoutError):
        straight.ask(("BLPOP", "straight:silent", 5))
    assert straight.ask(("ECHO", "there")) == [b"there"]


def test_a_redis_that_is_away_is_told_of(valkey: EmbeddedRedis) -> None:
    """Each time, until it is back: nothing is remembered of the connection that was."""
    straight = Straight(connect(valkey.uri))
    assert straight.ask(("ECHO", "there")) == [b"there"]
    valkey.__exit__()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            straight.ask(("ECHO", "there"))


def test_on_a_loop_a_refusal_is_an_answer_among_others(valkey: EmbeddedRedis) -> None:
    """Of those who ask together only one is refused."""

    async def ask() -> list[object]:
        client = connect_async(valkey.uri)
        straight = AsyncStraight(client)
        answers = await straight.ask(("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "b"))
        await straight.close()
        await client.aclose()
        return answers

    first, refused, last = asyncio.run(ask())
    assert [first, last] == [b"a", b"b"]
    assert isinstance(refused, redis.ResponseError)


def test_on_a_loop_a_connection_that_was_cut_costs_nothing(valkey: EmbeddedRedis) -> None:
    """Nor does a question that nobody waits for any more leave its answer to the next."""

    async def ask() -> list[object]:
        client = connect_async(valkey.uri)
        straight = AsyncStraight(client)
        (own,) = await straight.ask(("CLIENT", "ID"))
        connect(valkey.uri).client_kill_filter(_id=str(own))
        (new,) = await straight.ask(("CLIENT", "ID"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(straight.ask(("BLPOP", "straight:late", 1)), 0.1)
        answers = await straight.ask(("ECHO", "now"))
        await straight.close()
        await client.aclose()
        return [new != own, *answers]

    assert asyncio.run(ask()) == [True, b"now"]
