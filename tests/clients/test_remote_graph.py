"""A RemoteGraph on our server is a graph like any other: alone, and as a node of a local one."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from deployment import Deployment, new_thread
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    text: str
    trail: list[Any]


@pytest.fixture
def config(http: httpx.Client) -> RunnableConfig:
    """A thread on the server."""
    return {"configurable": {"thread_id": new_thread(http)}}


def nested(server: Deployment, name: str) -> Any:
    """A local graph whose only node lives on the server."""
    remote = RemoteGraph(name, url=server.url)
    graph = StateGraph(State).add_node("far", remote).add_edge(START, "far").add_edge("far", END)
    return graph.compile(checkpointer=InMemorySaver())


def test_state_is_read_and_updated_from_afar(server: Deployment, config: RunnableConfig) -> None:
    """get_state, get_state_history and update_state work on the server's thread."""
    graph = RemoteGraph("echo", url=server.url)
    graph.invoke({"text": "a"}, config)
    assert graph.get_state(config).values["trail"] == ["a"]
    graph.update_state(config, {"text": "b"}, as_node="__start__")
    assert graph.get_state(config).next == ("node",)
    assert graph.invoke(None, config)["trail"] == ["a", "b"]
    assert len(list(graph.get_state_history(config))) == 5


def test_a_remote_node_runs_inside_a_local_graph(server: Deployment) -> None:
    """The local graph passes its state on and takes the answer back."""
    answer = nested(server, "echo").invoke(
        {"text": "ab"}, {"configurable": {"thread_id": str(uuid4())}}
    )
    assert answer["trail"] == ["ab"]


def test_a_remote_nodes_stream_shows_as_a_subgraph(server: Deployment) -> None:
    """Events of the server's graph arrive under the node's namespace, before the node's own."""
    parts = list(
        nested(server, "steps").stream(
            {"text": "x"},
            {"configurable": {"thread_id": str(uuid4())}},
            stream_mode=["updates"],
            subgraphs=True,
        )
    )
    inner = [data for namespace, _, data in parts if namespace]
    assert [update["step"]["trail"] for update in inner] == [[0], [1], [2]]
    namespace, mode, last = parts[-1]
    assert (namespace, mode, list(last)) == ((), "updates", ["far"])


def test_an_interrupt_on_the_server_stops_and_resumes(
    server: Deployment, config: RunnableConfig
) -> None:
    """The question comes through, and so does the answer."""
    graph = RemoteGraph("ask", url=server.url)
    graph.invoke({"text": "sure?"}, config)
    (task,) = graph.get_state(config).tasks
    assert task.interrupts[0].value == {"question": "sure?"}
    assert graph.invoke(Command(resume="yes"), config)["trail"] == ["yes"]


def test_a_failure_on_the_server_is_raised_here(server: Deployment, config: RunnableConfig) -> None:
    """With the class that it had there."""
    with pytest.raises(Exception, match="Odd"):
        RemoteGraph("hostile", url=server.url).invoke({"kind": "raise"}, config)
