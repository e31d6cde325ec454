"""A chat agent: a model that may call a tool, and the tool."""

from chat.model import RuleBasedChatModel
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

# For a hosted model: init_chat_model("provider:name").bind_tools([get_weather]), below the tool.
model = RuleBasedChatModel()


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    degrees = 10 + sum(map(ord, city)) % 20
    return f"it is sunny in {city}, at {degrees} degrees."


async def call_model(state: MessagesState) -> MessagesState:
    """Let the model answer, or ask for a tool."""
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("model", call_model)
builder.add_node("tools", ToolNode([get_weather]))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", tools_condition)
builder.add_edge("tools", "model")
graph = builder.compile()
