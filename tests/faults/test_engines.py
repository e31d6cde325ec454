"""Redis and Postgres that forget, restart or stay away."""

from threading import Thread

import redis
from deployment import Deployment, get, join, new_thread, start, streaming, until

STEPS = {"n": 5, "seconds": 0.2}


def test_flushall_loses_no_run(deployment: Deployment) -> None:
    """Redis holds nothing that must last: queued and running runs end all the same."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        runs = [start(http, new_thread(http), "steps", input=STEPS) for _ in range(15)]
        client = redis.Redis.from_url(deployment.redis.uri)
        client.flushall()
        runs += [start(http, new_thread(http), "steps", input=STEPS) for _ in range(5)]
        client.flushall()
        client.close()
        assert [join(http, run)["trail"] for run in runs] == [[0, 1, 2, 3, 4]] * 20
        assert {get(http, run)["status"] for run in runs} == {"success"}
    deployment.assert_consistent()


def test_a_redis_restart_loses_no_run_and_ends_every_stream(deployment: Deployment) -> None:
    """While Redis is away runs are created, waited for and streamed from Postgres alone."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        thread_id = new_thread(http)
        body = {
            "assistant_id": "steps",
            "input": STEPS,
            "stream_mode": "custom",
            "stream_resumable": True,
        }
        steps = []
        with streaming(http, f"/threads/{thread_id}/runs/stream", body) as events:
            for name, data, _ in events:
                if name == "custom":
                    steps.append(data["step"])
                if steps == [0, 1]:
                    deployment.redis.__exit__(None, None, None)
        assert steps == [0, 1, 2, 3, 4]
        health = http.get("/ok?check_db=1").json()
        assert health == {
            "ok": True,
            "services": {"postgres": "ok", "redis": "down"},
            "degraded": True,
        }
        waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "x"}})
        assert waited.json()["trail"] == ["x"]
        deployment.redis.__enter__()
        until(lambda: http.get("/ok?check_db=1").json()["services"]["redis"] == "ok")
        waited = http.post("/runs/wait", json={"assistant_id": "echo", "input": {"text": "y"}})
        assert waited.json()["trail"] == ["y"]
    deployment.assert_consistent()


def test_a_postgres_restart_loses_no_run(deployment: Deployment) -> None:
    """Accepted runs end once, whatever they were doing; the workers reconnect by themselves."""
    deployment.start_web()
    deployment.start_worker()
    with deployment.client() as http:
        runs = [
            start(http, new_thread(http), "steps", input=STEPS, stream_mode="custom")
            for _ in range(12)
        ]
        until(lambda: get(http, runs[0])["status"] == "running")
        deployment.postgres.__exit__(None, None, None)
        refused = http.post("/threads", json={})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        deployment.postgres.__enter__()
        until(lambda: http.get("/ok?check_db=1").status_code == 200)
        assert [join(http, run)["trail"] for run in runs] == [[0, 1, 2, 3, 4]] * 12
        assert {get(http, run)["status"] for run in runs} == {"success"}
    deployment.assert_consistent()


def test_terminated_backends_are_replaced(deployment: Deployment) -> None:
    """When every connection is cut at once, runs go on and requests are answered."""
    deployment.start_web()
    deployment.start_worker()
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    with deployment.client() as http:
        runs = [start(http, new_thread(http), "steps", input=STEPS) for _ in range(6)]
        until(lambda: get(http, runs[0])["status"] == "running")
        ended: list[object] = []
        waiting = Thread(target=lambda: ended.extend(join(http, run)["trail"] for run in runs))
        assert deployment.value(cut) > 3
        waiting.start()
        waiting.join(timeout=60)
        assert ended == [[0, 1, 2, 3, 4]] * 6
    deployment.assert_consistent()
