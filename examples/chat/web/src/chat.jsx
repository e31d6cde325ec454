import { useStream } from "@langchain/react";
import { useState } from "react";

const query = new URLSearchParams(location.search);
const apiUrl = query.get("api") ?? "http://127.0.0.1:2024";

/** One conversation. Its thread is named in the address, so that a reload comes back to it. */
export function Chat() {
  const [threadId, setThreadId] = useState(query.get("thread"));
  const stream = useStream({
    apiUrl,
    assistantId: query.get("assistant") ?? "agent",
    transport: query.get("transport") ?? "sse",
    threadId,
    onThreadId(id) {
      query.set("thread", id);
      history.replaceState(null, "", `?${query}`);
      setThreadId(id);
    },
  });
  const say = (text, options) =>
    stream.submit({ messages: [{ type: "human", content: text }] }, options);
  return (
    <main>
      <header>
        <h1>Chat</h1>
        <span data-state={stream.isLoading ? "busy" : "idle"} id="state">
          {stream.isLoading ? "answering" : "ready"}
        </span>
      </header>
      <ol id="messages">
        {stream.messages
          .filter((message) => message.type !== "tool")
          .map((message) => (
            <Message key={message.id} stream={stream} message={message} say={say} />
          ))}
      </ol>
      {stream.interrupts.map((interrupt) => (
        <Question key={interrupt.id} interrupt={interrupt} respond={stream.respond} />
      ))}
      {stream.error ? <p id="error">{String(stream.error?.message ?? stream.error)}</p> : null}
      <Composer say={say} stop={() => stream.stop()} isLoading={stream.isLoading} />
    </main>
  );
}

/** The state that a message was said in: the parent of the oldest one that has it. */
async function checkpointBefore(stream, message) {
  const states = await stream.client.threads.getHistory(stream.threadId, { limit: 1000 });
  const has = (state) => state.values.messages?.some(({ id }) => id === message.id);
  return states.filter(has).at(-1)?.parent_checkpoint?.checkpoint_id;
}

function Message({ stream, message, say }) {
  const [draft, setDraft] = useState(null);
  const isHuman = message.type === "human";
  if (draft !== null) {
    const send = async (event) => {
      event.preventDefault();
      setDraft(null);
      void say(draft, { forkFrom: await checkpointBefore(stream, message) });
    };
    return (
      <li className="human">
        <form className="edit" onSubmit={send}>
          <input value={draft} onChange={(event) => setDraft(event.target.value)} autoFocus />
          <button>Ask this instead</button>
        </form>
      </li>
    );
  }
  const calls = message.tool_calls ?? [];
  return (
    <li className={message.type}>
      {message.text ? <span>{message.text}</span> : null}
      {calls.map(({ id, name, args }) => (
        <ToolCall
          key={id}
          call={stream.toolCalls.find((call) => (call.callId ?? call.id) === id) ?? { name, args }}
        />
      ))}
      {isHuman && !stream.isLoading ? (
        <button className="fork" title="Ask something else here" onClick={() => setDraft(message.text)}>
          ✎
        </button>
      ) : null}
    </li>
  );
}

function ToolCall({ call }) {
  const output = call.output?.content ?? call.output;
  return (
    <p className="tool" data-status={call.status}>
      <code>
        {call.name}({JSON.stringify(call.input ?? call.args)})
      </code>
      {output == null ? " …" : ` → ${typeof output === "string" ? output : JSON.stringify(output)}`}
    </p>
  );
}

function Question({ interrupt, respond }) {
  const answer = (approved) => () =>
    void respond({ approved }, { interruptId: interrupt.id });
  return (
    <section className="question">
      <p>{interrupt.value?.question ?? JSON.stringify(interrupt.value)}</p>
      <button id="approve" onClick={answer(true)}>
        Yes
      </button>
      <button id="decline" onClick={answer(false)}>
        No
      </button>
    </section>
  );
}

function Composer({ say, stop, isLoading }) {
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    if (text) void say(text);
    setText("");
  };
  return (
    <form id="composer" onSubmit={send}>
      <input
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder="What is the weather in Oslo?"
      />
      {isLoading ? (
        <button type="button" id="stop" onClick={stop}>
          Stop
        </button>
      ) : (
        <button id="send">Send</button>
      )}
    </form>
  );
}
