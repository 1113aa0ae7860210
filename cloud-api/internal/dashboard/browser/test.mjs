// Looks at the dashboard in a real Chromium as a person does. The addresses of
// three servers come in the environment: one with data, one that is empty, one
// that asks for a token. Every file of screenshots is written to SHOTS.
import assert from "node:assert/strict";
import { test, before, after } from "node:test";
import { chromium } from "playwright-core";

const { FULL, EMPTY, LOCKED, TOKEN, SHOTS, CHROMIUM } = process.env;
let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
});
after(() => browser?.close());

/** visit opens an address and fails the test for whatever the browser complains of. */
async function visit(t, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-GB", timezoneId: "Europe/Berlin", ...options });
  const page = await context.newPage();
  const complaints = [];
  page.allowed = [];
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") complaints.push(m.text()); });
  t.after(async () => {
    await context.close();
    const bad = complaints.filter((c) => !page.allowed.some((a) => c.includes(a)));
    assert.deepEqual(bad, [], "the browser complained");
  });
  page.setDefaultTimeout(30000);
  await page.goto(url);
  return page;
}

const shot = (page, name) => page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
const row = (page, text) => page.locator("tr", { hasText: text });
async function fits(page) {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `the page is ${wide} px wide in a window of ${window}`);
}

// The fleet shows every agent with its state, and what a person has to act on.
test("fleet", async (t) => {
  const page = await visit(t, FULL);
  await row(page, "greenhouse-1").first().waitFor();
  assert.match(await row(page, "greenhouse-1").first().innerText(), /catching up/);
  assert.match(await row(page, "workshop-2").first().innerText(), /alarm/);
  assert.match(await row(page, "pi-07").first().innerText(), /up to date/);
  assert.match(await row(page, "sleeper").first().innerText(), /silent/);
  assert.match(await row(page, "new-one").first().innerText(), /never heard of/);
  assert.match(await page.locator(".alarms").innerText(), /workshop-2 · hole · 10 records/);
  assert.match(await page.locator("dl.tiles").innerText(), /look at the alarms/);
  await page.getByLabel("Filter agents").fill("catching");
  await page.locator("section[aria-label=Agents] tr", { hasText: "pi-07" }).waitFor({ state: "detached" });
  assert.equal(await page.locator("section[aria-label=Agents] tbody tr").count(), 1);
  await page.getByLabel("Filter agents").fill("");
  await fits(page);
  await shot(page, "fleet-light");
});

// It refreshes by itself: what is stored later appears without a reload.
test("refresh", async (t) => {
  const page = await visit(t, FULL);
  const text = page.locator("#updated");
  await text.filter({ hasText: "As of" }).waitFor();
  const first = await text.innerText();
  await page.waitForFunction((was) => document.getElementById("updated").textContent !== was, first);
});

// Script in topics and payloads is text.
test("script is text", async (t) => {
  const page = await visit(t, `${FULL}/#/explore?agent=hostile`);
  await page.getByText("<img src=x onerror=window.hacked=1>").first().waitFor();
  await page.locator("td", { hasText: "</script><script>window.hacked=1</script>" }).first().waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("main img").count(), 0);
  await shot(page, "hostile");
});

// One agent: its ledger as a bar, its ranges, its backlog over time.
test("agent", async (t) => {
  const page = await visit(t, `${FULL}/#/agent/greenhouse-1`);
  await page.locator(".bar").first().waitFor();
  for (const kind of ["k-held", "k-device", "k-lost"]) assert.ok(await page.locator(`.bar rect.${kind}`).count() > 0, kind);
  assert.match(await page.locator(".bar").first().getAttribute("aria-label"), /held.*on the device still/);
  await page.locator(".epoch", { hasText: "1-01ab" }).getByText("Ranges").click();
  await page.getByRole("cell", { name: "dropped" }).first().waitFor();
  await page.locator("section[aria-label=Backlog] canvas").waitFor();
  await fits(page);
  await shot(page, "agent-light");
});

// An alarm that somebody looked at goes; a hole stays, since it is still there.
test("acknowledge", async (t) => {
  const page = await visit(t, `${FULL}/#/agent/workshop-2`);
  await page.getByText("advance at the same time").first().waitFor();
  await shot(page, "alarms");
  await page.getByRole("button", { name: "I have looked at them" }).click();
  await page.getByText("advance at the same time").first().waitFor({ state: "detached" });
  await page.getByText("nothing says why").waitFor();
});

// An admin shuts an agent out, sees that it is, and takes it back.
test("revoke", async (t) => {
  const page = await visit(t, `${FULL}/#/agent/pi-03`);
  page.on("dialog", (d) => d.accept());
  await page.getByRole("button", { name: "Revoke" }).click();
  await page.getByText("nothing more is taken from it").waitFor();
  await shot(page, "revoked");
  await page.getByRole("button", { name: "Allow again" }).click();
  await page.getByRole("button", { name: "Revoke" }).waitFor();
});

// Exploring: a tree of topics, one field over time, the raw view of any payload.
test("explore", async (t) => {
  const page = await visit(t, `${FULL}/#/explore`);
  await page.locator("select[aria-label=Agent]").selectOption("greenhouse-1");
  await page.getByLabel("Find a topic").fill("climate");
  await page.getByRole("button", { name: "climate" }).click();
  const canvas = page.locator("section[aria-label=Chart] canvas");
  await canvas.waitFor();
  const drawn = () => canvas.evaluate((c) => new Set(new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size);
  assert.ok(await drawn() > 3, "the chart is blank");
  assert.match(await page.locator("section[aria-label=Chart] select").first().inputValue(), /temperature/);
  await page.locator("section[aria-label=Chart] select").first().selectOption("/nested/values/1");
  await page.waitForURL(/field=/);
  await canvas.waitFor();
  await shot(page, "explore-light");
  await page.getByLabel("Find a topic").fill("camera");
  await page.getByRole("button", { name: "camera" }).click();
  await page.getByRole("button", { name: "256 bytes" }).first().click();
  await page.locator("dialog pre", { hasText: "000000  00 01 02" }).waitFor();
  await shot(page, "raw");
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
});

// What could not be stored is there to be looked at.
test("quarantine", async (t) => {
  const page = await visit(t, `${FULL}/#/quarantine`);
  await page.getByText("the signature is not by the agent's key").waitFor();
  await page.getByRole("button", { name: "Look" }).first().click();
  await page.locator("dialog pre").waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await shot(page, "quarantine-light");
});

// Everything can be reached and used with the keyboard alone.
test("keyboard", async (t) => {
  const page = await visit(t, FULL);
  await row(page, "greenhouse-1").first().waitFor();
  const name = () => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.getAttribute("aria-label"));
  const seen = [];
  for (let i = 0; i < 60 && seen.at(-1) !== "greenhouse-1"; i++) {
    await page.keyboard.press("Tab");
    seen.push(await name());
  }
  for (const want of ["Skip to the content", "Fleet", "Explore", "Quarantine", "greenhouse-1"]) assert.ok(seen.includes(want), `${want} is not reached: ${seen}`);
  await page.keyboard.press("Enter");
  await page.locator("h1", { hasText: "greenhouse-1" }).waitFor();
});

// Dark where the reader wants it, and narrow screens lose nothing.
for (const [name, options] of [["dark", { colorScheme: "dark" }], ["narrow", { viewport: { width: 360, height: 740 } }]]) {
  test(name, async (t) => {
    const page = await visit(t, FULL, options);
    await row(page, "greenhouse-1").first().waitFor();
    await fits(page);
    await shot(page, `fleet-${name}`);
    await page.goto(`${FULL}/#/agent/greenhouse-1`);
    await page.locator("section[aria-label=Backlog] canvas").waitFor();
    await fits(page);
    await shot(page, `agent-${name}`);
    await page.goto(`${FULL}/#/explore?agent=greenhouse-1&topic=house%2Fclimate`);
    await page.locator("section[aria-label=Chart] canvas").waitFor();
    await fits(page);
    await shot(page, `explore-${name}`);
    const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    if (name === "dark") assert.equal(back, "rgb(17, 21, 27)");
  });
}

// Times are in the reader's zone.
test("zone", async (t) => {
  const texts = [];
  for (const timezoneId of ["Europe/Berlin", "America/Lima"]) {
    const page = await visit(t, FULL, { timezoneId });
    texts.push(await row(page, "sleeper").first().locator("time").nth(1).getAttribute("title"));
  }
  assert.notEqual(texts[0].split("(")[0], texts[1].split("(")[0]);
});

// An empty cloud says what to do.
test("empty", async (t) => {
  const page = await visit(t, EMPTY);
  await page.getByText("cloud-api token create").waitFor();
  await page.getByText("No reading has arrived yet").waitFor();
  await shot(page, "empty");
  await page.goto(`${EMPTY}/#/explore`);
  await page.getByText("No agent is enrolled yet").waitFor();
  await page.goto(`${EMPTY}/#/quarantine`);
  await page.getByText("Empty: every frame").waitFor();
  await page.goto(`${EMPTY}/#/agent/nobody`);
  await page.getByText("Cannot read from the cloud: not known here").waitFor();
  page.allowed = ["404"];
});

// A server that is away for a while is told of, and the page goes on by itself.
test("server away", async (t) => {
  const page = await visit(t, FULL);
  page.allowed = ["ERR_FAILED", "Failed to load"];
  await row(page, "greenhouse-1").first().waitFor();
  await page.route("**/v1/**", (r) => r.abort());
  await page.getByText("the server does not answer").waitFor();
  assert.ok(await row(page, "greenhouse-1").first().isVisible(), "what was known is gone");
  await shot(page, "away");
  await page.unroute("**/v1/**");
  await page.locator("#error").waitFor({ state: "hidden" });
});

// A server with access control asks for a token, says when it is wrong, and
// shows the data with the right one.
test("token", async (t) => {
  const page = await visit(t, LOCKED);
  page.allowed = ["401"];
  const input = page.getByLabel("Access token");
  await input.fill("wrong");
  await page.keyboard.press("Enter");
  await page.getByText("this token is not known").waitFor();
  await shot(page, "token");
  await input.fill(TOKEN);
  await page.keyboard.press("Enter");
  await page.getByText("No agent is enrolled yet").waitFor();
});

// The page is small and soon usable.
test("size and time", async (t) => {
  const page = await visit(t, FULL);
  await row(page, "greenhouse-1").first().waitFor();
  const { bytes, usable } = await page.evaluate(() => {
    const files = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].filter((e) => !e.name.includes("/v1/"));
    return { bytes: files.reduce((n, e) => n + e.encodedBodySize, 0), usable: performance.now() };
  });
  console.log(`figure: ${bytes} bytes compressed, rows after ${Math.round(usable)} ms`);
  assert.ok(bytes > 10000 && bytes <= 150 * 1024, `${bytes} bytes`);
});
