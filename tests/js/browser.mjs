/* The chat page in a real browser: node browser.mjs <page url> <api url> <chromium> <folder for screenshots> */

import assert from "node:assert/strict";
import path from "node:path";

import { chromium } from "playwright-core";

const [pageUrl, apiUrl, executablePath, folder, transport = "sse"] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 700, height: 800 } });
page.setDefaultTimeout(30_000);
const complaints = [];
page.on("pageerror", (error) => complaints.push(String(error)));

const shoot = (name) => page.screenshot({ path: path.join(folder, `${transport}-${name}.png`) });
const texts = () => page.locator("#messages li > span").allTextContents();
const last = async () => (await texts()).at(-1) ?? "";
const settled = () => page.locator("#state[data-state=idle]").waitFor();
const ask = async (text) => {
  await page.locator("#composer input").fill(text);
  await page.locator("#send").click();
};
/** Ask again and again until it is so. */
async function until(check, what) {
  const end = Date.now() + 30_000;
  while (!(await check())) {
    assert.ok(Date.now() < end, `never: ${what}; messages: ${JSON.stringify(await texts())}`);
    await page.waitForTimeout(10);
  }
}

try {
  await page.goto(`${pageUrl}?api=${encodeURIComponent(apiUrl)}&transport=${transport}`);

  // Tokens appear one after another.
  const hello = `hello ${"word ".repeat(60)}`.trim();
  await ask(hello);
  const seen = new Set();
  await until(async () => {
    const text = await last();
    if (text.startsWith("You said")) seen.add(text);
    return text.endsWith("of your choice.");
  }, "the whole answer");
  assert.ok(seen.size > 2, `it came at once: ${[...seen]}`);
  await settled();
  await shoot("1-tokens");

  // A tool call shows, with its result.
  await ask("What is the weather in Oslo?");
  await page.locator(".tool", { hasText: 'get_weather({"city":"Oslo"})' }).waitFor();
  await page.locator(".tool", { hasText: "it is sunny in Oslo" }).waitFor();
  await until(async () => (await last()).startsWith("I looked it up: it is sunny in Oslo"), "weather");
  await settled();
  await shoot("2-tool");

  // An interrupt is answered by a click.
  await ask("Please send a postcard to Rome");
  await page.locator(".question", { hasText: "Send a postcard to Rome" }).waitFor();
  await shoot("3-question");
  await page.locator("#approve").click();
  await until(async () => (await last()) === "Done: it is on its way to Rome.", "the postcard");
  await settled();
  assert.equal(await page.locator(".question").count(), 0);
  await shoot("4-answered");

  // Reloaded amid an answer, the page catches up.
  await ask(`say ${"word ".repeat(60)}`);
  await until(async () => (await last()).startsWith("You said: say word"), "the first words");
  await page.reload();
  await until(async () => (await last()).endsWith("of your choice."), "the rest after a reload");
  await settled();
  const all = await texts();
  assert.equal(all.length, 8, JSON.stringify(all));
  assert.equal(new Set(all).size, all.length, "a message shows twice");
  await shoot("5-reloaded");

  // Stop cancels.
  await ask(`say ${"more ".repeat(100)}`);
  await until(async () => (await last()).startsWith("You said: say more"), "the first words");
  await page.locator("#stop").click();
  await settled();
  const threadId = new URL(page.url()).searchParams.get("thread");
  await until(async () => {
    const runs = await (await fetch(`${apiUrl}/threads/${threadId}/runs?limit=1`)).json();
    return runs[0].status === "interrupted";
  }, "the run is cancelled");
  await shoot("6-stopped");

  // A branch is made from an earlier message.
  await page.reload();
  await page.locator("#messages li").first().waitFor();
  const second = page.locator("#messages li", { hasText: "What is the weather in Oslo?" });
  await second.locator(".fork").click();
  await page.locator("form.edit input").fill("What is the weather in Lima?");
  await shoot("7-editing");
  await page.locator("form.edit button").click();
  await until(async () => (await last()).startsWith("I looked it up: it is sunny in Lima"), "branch");
  await settled();
  const branch = await texts();
  assert.deepEqual(branch.slice(0, 1), [hello]);
  assert.equal(branch[2], "What is the weather in Lima?");
  assert.equal(branch.length, 4, JSON.stringify(branch));
  await shoot("8-branch");
  assert.deepEqual(complaints, []);
  console.log("the page works");
} catch (error) {
  await shoot("failed");
  console.error(await page.locator("body").innerText());
  throw error;
} finally {
  await browser.close();
}
