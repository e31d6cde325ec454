"""A chat agent: a model that may call tools, and the tools; one of them asks a human first."""

from chat.model import RuleBasedChatModel
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

# For a hosted model: init_chat_model("provider:name").bind_tools([...]), below the tools.
model = RuleBasedChatModel()


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    degrees = 10 + sum(map(ord, city)) % 20
    return f"it is sunny in {city}, at {degrees} degrees."


@tool
def send_postcard(city: str) -> str:
    """Send a postcard, once somebody has agreed to pay the stamp."""
    answer = interrupt({"question": f"Send a postcard to {city} for 2 euros?"})
    return f"it is on its way to {city}." if answer["approved"] else "nothing was sent."


async def call_model(state: MessagesState) -> MessagesState:
    """Let the model answer, or ask for a tool."""
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("model", call_model)
builder.add_node("tools", ToolNode([get_weather, send_postcard]))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", tools_condition)
builder.add_edge("tools", "model")
graph = builder.compile()
