/* client.threads.stream and the controller of useStream, in Node: node threads.mjs <api url> */

import assert from "node:assert/strict";
import net from "node:net";

import { Client } from "@langchain/langgraph-sdk";
import { StreamController } from "@langchain/langgraph-sdk/stream";

const [apiUrl] = process.argv.slice(2);
const client = new Client({ apiUrl });
const say = (text) => ({ messages: [{ type: "human", content: text }] });

/** Ask again and again until it is so. */
async function until(check, what) {
  const end = Date.now() + 30_000;
  for (;;) {
    const found = await check();
    if (found) return found;
    assert.ok(Date.now() < end, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A proxy that one can cut: what a flaky network does. */
async function flakyProxy(target) {
  const sockets = new Set();
  const server = net.createServer((incoming) => {
    const outgoing = net.connect(Number(target.port), target.hostname);
    for (const socket of [incoming, outgoing]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        incoming.destroy();
        outgoing.destroy();
      });
    }
    incoming.pipe(outgoing);
    outgoing.pipe(incoming);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      for (const socket of sockets) socket.destroy();
    },
    close() {
      server.close();
      this.cut();
    },
  };
}

const tests = {
  async "values, messages and tool calls of one run"() {
    const thread = client.threads.stream({ assistantId: "agent" });
    const texts = [];
    const reading = (async () => {
      for await (const message of thread.messages) {
        let text = "";
        for await (const piece of message.text) text += piece;
        texts.push(text);
      }
    })();
    await thread.run.start({ input: say("What is the weather in Oslo?") });
    const output = await thread.output;
    await reading;
    assert.equal(output.messages.length, 4);
    assert.ok(texts.some((text) => text.startsWith("I looked it up: it is sunny in Oslo")), texts);
    await thread.close();
  },

  async "an interrupt is answered"(transport) {
    const thread = client.threads.stream({ assistantId: "agent", transport });
    await thread.run.start({ input: say("a postcard to Rome") });
    const [asked] = await until(() => thread.interrupts.length && thread.interrupts, "a question");
    assert.equal(asked.payload.question, "Send a postcard to Rome for 2 euros?");
    await thread.input.respond({
      namespace: asked.namespace,
      interrupt_id: asked.interruptId,
      response: { approved: false },
    });
    await until(async () => {
      const { values, next } = await client.threads.getState(thread.threadId);
      return next.length === 0 && values.messages.at(-1).content[0].text === "Done: nothing was sent.";
    }, "the answer");
    await thread.close();
  },

  async "an interrupt is answered on a WebSocket"() {
    // Node has one from version 22 on; the page is tested with it in any case.
    if (typeof WebSocket === "undefined") return;
    await tests["an interrupt is answered"]("websocket");
  },

  async "a connection that breaks again and again loses nothing"() {
    const proxy = await flakyProxy(new URL(apiUrl));
    const flaky = new Client({ apiUrl: proxy.url });
    const controller = new StreamController({ client: flaky, assistantId: "agent" });
    const submitted = controller.submit(say(`say ${"word ".repeat(40)}`));
    const text = () => controller.rootStore.getSnapshot().messages.at(-1)?.text ?? "";
    for (let cuts = 1; cuts <= 4; cuts++) {
      await until(() => text().split(" ").length > cuts * 8, `words before cut ${cuts}`);
      proxy.cut();
    }
    await submitted;
    await until(() => text().endsWith("of your choice."), "the whole answer");
    assert.equal(text().match(/word/g).length, 40);
    assert.equal(controller.rootStore.getSnapshot().messages.length, 2);
    await controller.dispose();
    proxy.close();
  },

  async "messages know the checkpoint that they came after"() {
    const controller = new StreamController({ client, assistantId: "agent" });
    await controller.submit(say("one"));
    await controller.submit(say("two"));
    const { messages } = controller.rootStore.getSnapshot();
    const second = messages.find(({ text }) => text === "two");
    const metadata = controller.messageMetadataStore.getSnapshot().get(second.id);
    await controller.submit(say("instead"), { forkFrom: metadata.parentCheckpointId });
    const said = controller.rootStore.getSnapshot().messages.map(({ text }) => text);
    assert.deepEqual([said[0], said[2], said.length], ["one", "instead", 4], said);
    await controller.dispose();
  },

  async "two runs at once: the later one interrupts the earlier"() {
    const controller = new StreamController({ client, assistantId: "agent" });
    const first = controller.submit(say(`say ${"word ".repeat(100)}`)).catch(() => {});
    const { messages } = await until(() => {
      const snapshot = controller.rootStore.getSnapshot();
      return snapshot.messages.length > 1 && snapshot;
    }, "the first words");
    assert.ok(messages.length);
    await controller.submit(say("now"), { multitaskStrategy: "interrupt" });
    await first;
    await until(() => {
      const last = controller.rootStore.getSnapshot().messages.at(-1);
      return last.text.startsWith("You said: now");
    }, "the second answer");
    await controller.dispose();
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok: ${name}`);
  } catch (error) {
    failed++;
    console.error(`FAILED: ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
