"""The `webhooks` block of langgraph.json."""

from pathlib import Path
from typing import Any

import pytest

from greenroom.config import Config, Project
from greenroom.errors import ConfigError
from greenroom.webhooks.settings import Rules, Settings, read_settings


def read(raw: dict[str, Any], **config: Any) -> Settings:
    project = Project(directory=Path(), graphs={}, raw=raw)
    return read_settings(Config(database_uri="", redis_uri="", project=project, **config))


def test_without_a_block_http_is_allowed_and_loopback_is_not() -> None:
    """As on the reference server."""
    assert read({}).rules == Rules(require_https=False, disable_loopback=True)


def test_with_a_block_https_is_required_unless_it_says_otherwise() -> None:
    """As on the reference server."""
    assert read({"webhooks": {}}).rules.require_https
    assert not read({"webhooks": {"url": {"require_https": False}}}).rules.require_https


def test_headers_are_filled_in_from_the_environment() -> None:
    """With what the prefix allows, and nothing else."""
    block = {"headers": {"Authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}", "x-plain": "1"}}
    found = read({"webhooks": block}, environment={"LG_WEBHOOK_TOKEN": "abc"})
    assert found.headers == {"authorization": "Bearer abc", "x-plain": "1"}
    assert "abc" not in repr(found)
    block = {"env_prefix": "HOOK_", "headers": {"x": "${{env.HOOK_A}}-${{ env.HOOK_B }}"}}
    found = read({"webhooks": block}, environment={"HOOK_A": "a", "HOOK_B": "b"})
    assert found.headers == {"x": "a-b"}


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ([], "webhooks"),
        ({"env_prefix": ""}, "webhooks.env_prefix"),
        ({"headers": []}, "webhooks.headers"),
        ({"headers": {"x": 1}}, "webhooks.headers.x"),
        ({"headers": {"x y": "1"}}, "webhooks.headers.x y"),
        ({"headers": {"Host": "evil"}}, "webhooks.headers.Host"),
        ({"headers": {"Greenroom-Signature": "t"}}, "webhooks.headers.Greenroom-Signature"),
        ({"headers": {"x": "a\r\ny: b"}}, "webhooks.headers.x"),
        ({"headers": {"x": "${{ env.LG_WEBHOOK_EVIL }}"}}, "webhooks.headers.x"),
        ({"headers": {"x": "${{ env.LG_WEBHOOK_GONE }}"}}, "LG_WEBHOOK_GONE, which is not set"),
        ({"headers": {"x": "${{ env.DATABASE_URI }}"}}, "begin with LG_WEBHOOK_"),
        ({"headers": {"x": "${{ secrets.X }}"}}, "webhooks.headers.x"),
        ({"url": 1}, "webhooks.url"),
        ({"url": {"require_https": "yes"}}, "webhooks.url.require_https"),
        ({"url": {"disable_loopback": 0}}, "webhooks.url.disable_loopback"),
        ({"url": {"disable_private": None}}, "webhooks.url.disable_private"),
        ({"url": {"allowed_domains": "x.com"}}, "webhooks.url.allowed_domains"),
        ({"url": {"allowed_domains": ["https://x.com"]}}, "webhooks.url.allowed_domains"),
        ({"url": {"allowed_ports": [0]}}, "webhooks.url.allowed_ports"),
        ({"url": {"allowed_ports": [True]}}, "webhooks.url.allowed_ports"),
        ({"url": {"max_url_length": -1}}, "webhooks.url.max_url_length"),
    ],
)
def test_a_wrong_block_is_refused_at_the_start(block: Any, key: str) -> None:
    """One line that names the key, and no secret."""
    environment = {"LG_WEBHOOK_EVIL": "s3cret\r\nx: y", "DATABASE_URI": "s3cret"}
    with pytest.raises(ConfigError) as caught:
        read({"webhooks": block}, environment=environment)
    line = str(caught.value)
    assert key in line
    assert "\n" not in line
    assert "s3cret" not in line


def test_paths_of_our_own_lead_to_where_we_listen() -> None:
    """Also when we listen everywhere."""
    assert read({}, host="0.0.0.0", port=8000, mount_prefix="/api").own_url == (
        "http://127.0.0.1:8000/api"
    )
    assert read({}, host="::", port=1).own_url == "http://[::1]:1"


def test_webhooks_can_be_switched_off() -> None:
    """`http.disable_webhooks`."""
    assert not read({"http": {"disable_webhooks": True}}).is_enabled
    with pytest.raises(ConfigError, match=r"http\.disable_webhooks"):
        read({"http": {"disable_webhooks": "no"}})
