"""A run's events on their way out."""

from deployment import Deployment, join, new_thread, start
from sqlalchemy import text

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
