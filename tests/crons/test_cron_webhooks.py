"""A cron's webhook obeys the rules of every other."""

import httpx


def test_a_webhook_that_no_run_may_have_is_refused_at_once(http: httpx.Client) -> None:
    """Not only when it fires: whoever makes the cron is told, by the name of the field."""
    body = {"assistant_id": "echo", "schedule": "0 0 1 1 *", "webhook": "http://127.0.0.1:1/"}
    refused = http.post("/runs/crons", json=body)
    assert refused.status_code == 422
    assert "webhook" in refused.json()["detail"]
