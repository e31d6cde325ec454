"""What a web process hears from Redis, on its one connection."""

import random
import time

import pytest
import redis
from deployment import Deployment, new_thread, until

from greenroom.cli.embedded import EmbeddedRedis
from greenroom.signals.connection import connect
from greenroom.signals.ear import Ear, Heard


def test_an_ear_hears_what_it_is_subscribed_to(valkey: EmbeddedRedis) -> None:
    """Confirmations, messages as bytes, answers to a ping; silence is None, and no end."""
    client = connect(valkey.uri, socket_timeout=0.3)
    ear = Ear(client)
    ear.open()
    ear.subscribe("a", "b")
    assert [ear.hear(), ear.hear()] == [Heard("subscribe", "a", 1), Heard("subscribe", "b", 2)]
    assert ear.overhear() is None
    assert ear.hear() is None
    client.publish("b", b"\x00\xff")
    client.publish("b", b"")
    assert ear.hear() == Heard("message", "b", b"\x00\xff")
    until(lambda: ear.overhear() == Heard("message", "b", b""))
    ear.unsubscribe("b")
    assert ear.hear() == Heard("unsubscribe", "b", 1)
    ear.ping()
    assert ear.hear() == Heard("pong")


def test_an_ear_that_lost_its_connection_says_so_and_opens_again(valkey: EmbeddedRedis) -> None:
    """Cut while it waits; what it was subscribed to it must be told again."""
    client = connect(valkey.uri)
    ear = Ear(client)
    ear.open()
    ear.subscribe("a")
    assert ear.hear() == Heard("subscribe", "a", 1)
    client.client_kill_filter(_type="pubsub")
    with pytest.raises(redis.ConnectionError):
        ear.hear()
    ear.close()
    with pytest.raises(redis.ConnectionError):
        ear.hear()
    ear.open()
    ear.subscribe("a")
    assert ear.hear() == Heard("subscribe", "a", 1)


def test_a_thread_that_is_left_and_wanted_again_is_heard(deployment: Deployment) -> None:
    """Around the moment at which its channel is left, each run's end arrives by Redis alone."""
    deployment.settings["GREENROOM_WATCHDOG_SECONDS"] = "120"
    deployment.start_web()
    deployment.start_worker()
    dice = random.Random(1)
    client = redis.Redis.from_url(deployment.redis.uri)
    with deployment.client() as http:
        path = f"/threads/{new_thread(http)}/runs/wait"
        for _ in range(60):
            answer = http.post(path, json={"assistant_id": "echo", "input": {"text": "x"}})
            assert answer.json()["text"]
            time.sleep(dice.uniform(0.02, 0.09))
    until(lambda: not client.pubsub_channels("*:events:*"))
    client.close()
