"""The OpenAPI document: valid, readable, and the reference's own but for what is listed here."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

sys.path.insert(0, str(Path(__file__).parent))

from shapes import METHODS, differences, rows_of

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "api.json"
CRON_BODIES = "* */crons* body "
INTENDED = {
    # Operations
    "* /mcp/*": "a bridge to other protocols, which is optional",
    "* /a2a/{assistant_id}*": "a bridge to other protocols, which is optional",
    "GET /docs missing": "the page that shows the document is none of its operations",
    "GET / *added": "answers as /ok does, there as here",
    "* /runs/{run_id}* added": "both clients look for a stateless run here after a lost connection",
    # Where the reference's document is not what the reference does
    "POST /assistants/{assistant_id}/latest * version *": "is read from the body, there as here",
    "POST /assistants/{assistant_id}/latest body added": "is read from the body, there as here",
    "POST /assistants/{assistant_id}/versions body* added": "a body is required, there as here",
    "GET /threads/{thread_id}/history query limit default": "is 1, there as here",
    "GET /store/items query namespace*": "is one text, joined by dots, and required, there as here",
    "POST /threads/{thread_id}/state body checkpoint_id added": "is read, there as here",
    "POST * body *.goto*.input required": "a node may be sent to without an input, there as here",
    # Defaults that the reference does not tell
    "POST /assistants body name default": "is Untitled, there as here",
    "POST /*/search body sort_by default": "is told by us alone",
    "POST /*/search body sort_order default": "is told by us alone",
    "* subgraphs default": "is told by us alone",
    "GET /threads/{thread_id} query include default": "is told by us alone",
    "GET /threads/{thread_id}/history query before default": "is told by us alone",
    # Defaults that would be wrong here
    "POST * body *checkpoint_during default": "false would mean `exit`, which is not the default",
    CRON_BODIES + "durability default": "an absent field stays absent: the run's default counts",
    CRON_BODIES + "multitask_strategy default": "an absent field stays absent, as above",
    CRON_BODIES + "stream_* default": "an absent field stays absent, as above",
    # More than the reference takes
    "GET /ok query check_db *": "0 and 1 are read as any other flag is",
    "GET */join query stream_mode* added": "one shape with the stream's query; does nothing here",
    "GET */stream query stream_mode *": "clients repeat the parameter",
    "GET */stream query stream_mode[] added": "clients repeat the parameter",
    "GET /threads/{thread_id}/stream query stream_modes *": "one mode is a list of one",
    "POST /threads/{thread_id}/stream/events body channels[] enum": "checkpoints may be read, too",
    "PATCH /threads/{thread_id} header Prefer added": "is read, there as here",
    "POST * header Idempotency-Key added": "a request may be repeated without a second run",
    "POST *runs* body if_thread_status* added": "a run may be refused by its thread's status",
    "POST /threads/{thread_id}/runs* body checkpoint_id added": "clients send it",
    "* body *config.metadata added": "is read, there as here",
    "POST /runs* body *interrupt_before* added": "clients send it for stateless runs, too",
    "POST /runs* body *interrupt_after* added": "clients send it for stateless runs, too",
    "POST /runs body on_disconnect added": "one shape for all runs; does nothing here",
    "POST /runs/batch body [].on_disconnect added": "one shape for all runs; does nothing here",
    "POST /threads/{thread_id}/runs body on_disconnect added": "as above",
    CRON_BODIES + "checkpoint_during added": "one shape for all runs",
    CRON_BODIES + "multitask_strategy added": "clients send it for crons without a thread, too",
    CRON_BODIES + "on_run_completed added": "clients send it for crons of a thread, too",
    CRON_BODIES + "input type": "whatever a run takes",
    CRON_BODIES + "input[] missing": "whatever a run takes",
    "* checkpoint.* type": "clients send nulls in a checkpoint that they have read",
    "POST /threads/{thread_id}/history body before type": "the id alone will do",
    "POST /threads/{thread_id}/history body before.*": "the config of a checkpoint will do",
    "POST /threads body supersteps[].updates[].values[] missing": "any item of a list will do",
    "GET */webhooks*added": "tells what became of a run's webhook",
    # Less than the reference takes
    "DELETE /store/items body namespace required": "no item lies outside every namespace",
}
"""Each difference from the reference, `*` for any text, with its reason."""


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    """What the server says of itself."""
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    return found


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    """Generators of clients can read it."""
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_document_differs_from_the_reference_only_as_intended(
    document: dict[str, Any],
) -> None:
    """Every path, parameter and field is there; what differs is listed with its reason."""
    if not REFERENCE.exists():
        pytest.skip("the reference's document does not lie beside the checkout")
    theirs = rows_of(json.loads(REFERENCE.read_text()))
    unused, surprises = set(INTENDED), []
    for where, how in differences(rows_of(document), theirs):
        known = {pattern for pattern in INTENDED if matches(pattern, where)}
        unused -= known
        if not known:
            surprises.append(f"{where}: {how}")

    assert not surprises, "\n".join(surprises)
    assert not unused


def test_everything_is_described(document: dict[str, Any]) -> None:
    """No operation without a summary, no shape without a sentence, no name of a Python module."""
    for path, operations in document["paths"].items():
        for method in METHODS:
            if operation := operations.get(method):
                assert operation["summary"], (path, method)
    for name, schema in document["components"]["schemas"].items():
        assert name.isalnum(), name
        assert schema.get("description"), name
    for tag in document["tags"]:
        assert tag["description"], tag


def matches(pattern: str, where: str) -> bool:
    """Whether a difference is this one; brackets are no character classes."""
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), where))
