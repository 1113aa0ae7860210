// Shows what the API beside this page says, every two seconds. Whatever came
// from the network is put into the page as text, never as HTML.
"use strict";

const refresh = 2000;
const quietAfter = 180; // seconds without a frame; an idle agent sends one a minute
const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat();
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail || `the server answered ${answer.status}`);
}

function element(tag, text, kind) {
  const e = document.createElement(tag);
  e.textContent = text;
  if (kind) e.className = kind;
  return e;
}

function time(text) {
  const e = element("time", text ? moment.format(new Date(text)) : "never");
  if (text) e.title = e.dateTime = text;
  return e;
}

function cell(content, kind) {
  if (content instanceof Node) {
    const td = element("td", "", kind);
    td.append(content);
    return td;
  }
  return element("td", typeof content === "number" ? numbers.format(content) : content, kind);
}

function ago(text) {
  if (!text) return "never";
  const s = Math.max(0, Math.round((Date.now() - new Date(text)) / 1000));
  if (s < 90) return `${s} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  if (s < 129600) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} d ago`;
}

function state(a) {
  if (a.alarms.length) return ["alarm", "bad"];
  if (!a.last_seen) return ["enrolled, not heard of", "dim"];
  if ((Date.now() - new Date(a.last_seen)) / 1000 > quietAfter) return ["silent", "warn"];
  if (a.on_device > 0) return ["catching up", "warn"];
  return ["up to date", "good"];
}

function agentRow(a) {
  const tr = document.createElement("tr");
  const [word, kind] = state(a);
  const seen = element("span", ago(a.last_seen));
  if (a.last_seen) seen.title = a.last_seen;
  tr.append(
    cell(a.id), cell(word, "state " + kind), cell(seen), cell(a.watermark, "n"), cell(a.held, "n"), cell(a.on_device, "n"),
    cell(a.lost, "n" + (a.lost ? " warn" : "")), cell(a.unexplained, "n" + (a.unexplained ? " bad" : "")), cell(a.redelivered, "n"));
  return tr;
}

function readingRow(r) {
  const tr = document.createElement("tr");
  const long = r.payload.length > 400;
  tr.append(
    cell(time(r.corrected_at)), cell(r.agent), cell(r.topic, "topic"),
    cell((r.payload_encoding === "base64" ? "base64: " : "") + r.payload.slice(0, 400) + (long ? "…" : ""), "payload"),
    cell(`${r.epoch.split("-")[0]} · ${numbers.format(r.seq)}`, "n"));
  return tr;
}

function fill(table, empty, rows) {
  $(table).tBodies[0].replaceChildren(...rows);
  $(table).hidden = rows.length === 0;
  $(empty).hidden = rows.length > 0;
}

function show(agents, readings) {
  fill("fleet", "fleet-empty", agents.map(agentRow));
  fill("latest", "latest-empty", readings.map(readingRow));
  $("alarms").replaceChildren(...agents.flatMap((a) => a.alarms.map((l) => element("li", `${a.id}: ${l.kind}: ${l.detail}`))));
  const sum = (key) => agents.reduce((n, a) => n + a[key], 0);
  $("summary").textContent =
    `${numbers.format(agents.length)} agents · ${numbers.format(sum("held"))} records held · ` +
    `${numbers.format(sum("on_device"))} on devices still · ${numbers.format(sum("lost"))} lost · ${numbers.format(sum("unexplained"))} unexplained`;
}

async function update() {
  try {
    const [agents, readings] = await Promise.all([get("v1/agents"), get("v1/readings?order=desc&limit=25")]);
    show(agents.agents, readings.readings);
    $("error").hidden = true;
  } catch (e) {
    $("error").textContent = `Cannot read from the cloud: ${e.message}. What is shown may be old; this page goes on trying.`;
    $("error").hidden = false;
  }
  setTimeout(update, refresh);
}

update();
