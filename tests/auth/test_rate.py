"""How many requests a caller may make."""

from pathlib import Path

import pytest
from deployment import Deployment, until

from greenroom.contract.rate import read_rule
from greenroom.errors import ConfigError

PROJECT = Path(__file__).parent / "project" / "langgraph.json"


def test_each_caller_has_a_count_of_their_own(deployment: Deployment) -> None:
    """The same in every process; health is not counted, and without Redis nobody is refused."""
    deployment.project = PROJECT
    first = deployment.start_web(GREENROOM_RATE_LIMIT="3/hour")
    second = deployment.start_web(GREENROOM_RATE_LIMIT="3/hour")
    with deployment.client(first, "ann") as here, deployment.client(second, "ann") as there:
        answers = [client.post("/threads", json={}) for client in (here, there, here, there)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        left = [answer.headers["ratelimit-remaining"] for answer in answers]
        assert left == ["2", "1", "0", "0"]
        refused = answers[-1]
        assert refused.headers["ratelimit-limit"] == "3"
        assert 0 < int(refused.headers["retry-after"]) <= 3600
        assert "3 per 1 hour" in refused.json()["detail"]
        assert here.get("/ok").status_code == 200
    with deployment.client(first, "bob") as bob, deployment.client(first, "mallory") as mallory:
        assert bob.post("/threads", json={}).headers["ratelimit-remaining"] == "2"
        assert [mallory.post("/threads", json={}).status_code for _ in range(5)] == [401] * 5
    deployment.redis.__exit__(None, None, None)
    with deployment.client(first, "ann") as ann:
        assert ann.post("/threads", json={}).status_code == 200
    until(lambda: deployment.count_log("requests not counted"))
    deployment.redis.__enter__()


@pytest.mark.parametrize("rule", ["many", "10", "0", "10/fortnight", "-1/minute"])
def test_a_rule_that_is_none_is_refused(rule: str) -> None:
    """At the start."""
    with pytest.raises(ConfigError, match="GREENROOM_RATE_LIMIT"):
        read_rule(rule)
