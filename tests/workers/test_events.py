"""A run's events on their way out."""

import time

import redis
from deployment import Deployment, events_of, get, join, new_thread, start, until
from sqlalchemy import text

from greenroom.graphs.later import HOLD_SECONDS

SLOW_LOG = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
CREATE TRIGGER wait BEFORE INSERT ON run_event FOR EACH ROW EXECUTE FUNCTION wait();

CREATE FUNCTION check_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.metadata ->> 'step')::integer > (
        SELECT count(*) FROM run_event,
               regexp_matches(convert_from(frames, 'UTF8'), 'event: custom', 'g')
         WHERE thread_id = CAST(NEW.thread_id AS uuid))
    THEN RAISE EXCEPTION 'a checkpoint came before its events'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_log BEFORE INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION check_log();
"""


def test_a_checkpoint_never_knows_of_more_than_the_log(deployment: Deployment) -> None:
    """An attempt that goes on from there would not repeat what got lost before it."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.database.transaction() as connection:
        connection.execute(text(SLOW_LOG.replace(":", "\\:")))
    with deployment.client() as http:
        body = {"input": {"n": 5}, "stream_mode": "custom", "stream_resumable": True}
        run = start(http, new_thread(http), "steps", **body)
        assert join(http, run)["trail"] == [0, 1, 2, 3, 4]
    attempts = "SELECT attempt FROM run WHERE run_id = CAST(:run_id AS uuid)"
    assert deployment.value(attempts, run_id=run["run_id"]) == 1


def published(client: redis.Redis) -> int:
    """Messages that Redis has been given to pass on."""
    return int(client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


def test_events_that_nobody_hears_are_sent_seldom(deployment: Deployment) -> None:
    """Each by itself would cost what a short run costs; who comes to listen hears what follows."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http, redis.Redis.from_url(deployment.redis.uri) as client:
        body = {"input": {"n": 200, "seconds": 0.005}, "stream_mode": "custom"}
        began, before = time.monotonic(), published(client)
        run = start(http, new_thread(http), "steps", **body)
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        until(lambda: http.get(path).json()["status"] == "success")
        seconds = time.monotonic() - began
        assert 0 < published(client) - before < seconds / HOLD_SECONDS + 10

        run = start(http, new_thread(http), "steps", **body)
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        until(lambda: http.get(path).json()["status"] == "running")
        with http.stream("GET", f"{path}/stream") as response:
            heard = [line for line in response.iter_lines() if line.startswith("data: ")]
        assert len(heard) > 1


def test_who_is_streamed_is_known_before_the_first_event(deployment: Deployment) -> None:
    """It does not wait for others then; else it leaves with the end of a short run."""
    deployment.start_web()
    is_heard = "SELECT is_heard FROM run WHERE run_id = CAST(:run_id AS uuid)"
    body = {"assistant_id": "echo", "input": {"text": "x"}}
    with deployment.client() as http:
        thread = new_thread(http)
        alone = start(http, thread, "echo", input={"text": "x"})
        assert deployment.value(is_heard, run_id=alone["run_id"]) is False

        with http.stream("POST", f"/threads/{thread}/runs/stream", json=body) as response:
            streamed = response.headers["content-location"].rpartition("/")[2]
        assert deployment.value(is_heard, run_id=streamed) is True

        with deployment.client() as other, other.stream("GET", f"/threads/{thread}/stream"):
            followed = start(http, thread, "echo", input={"text": "x"})
        assert deployment.value(is_heard, run_id=followed["run_id"]) is True


def test_an_end_never_overtakes_events_that_are_only_sent(deployment: Deployment) -> None:
    """Redis takes nothing for a while, and the run ends meanwhile: all that it told comes first."""
    deployment.start_web()
    deployment.start_worker()
    body = {
        "assistant_id": "steps",
        "input": {"n": 6, "seconds": 0.02},
        "stream_mode": "custom",
    }
    with deployment.client() as http, redis.Redis.from_url(deployment.redis.uri) as client:
        path = f"/threads/{new_thread(http)}/runs/stream"
        with http.stream("POST", path, json=body) as response:
            events = (data["step"] for name, data, _ in events_of(response) if name == "custom")
            steps = [next(events)]
            # Publishing waits until the pause is over, shorter than anybody's patience with Redis,
            # and than two looks of the watchdog at a run that has ended.
            client.client_pause(500, all=False)
            with deployment.client() as own:
                run = own.get(response.headers["content-location"]).json()
                until(lambda: get(own, run)["status"] == "success")
            steps += events
    assert steps == list(range(6))
