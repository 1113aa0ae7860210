"use strict";

const units = ["B", "KiB", "MiB", "GiB", "TiB"];

function bytes(n) {
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 ? n : n.toFixed(1)} ${units[i]}`;
}

function seconds(s) {
  if (s < 0) return "unknown";
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 120) return `${s.toFixed(1)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function show(fact) {
  if (fact.value === null || fact.value === "") return "–";
  switch (fact.unit) {
    case "bytes": return bytes(fact.value);
    case "seconds": return seconds(fact.value);
    case "count": return fact.value.toLocaleString("en").replaceAll(",", " ");
    case "bool": return fact.value ? "yes" : "no";
    default: return String(fact.value);
  }
}

function element(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

function part(p) {
  const box = element("section", undefined, p.state);
  const head = element("h2", p.name);
  head.append(element("span", p.state, "state"));
  box.append(head);
  if (p.note) box.append(element("p", p.note, "note"));
  const list = element("dl");
  for (const f of p.facts || []) {
    const row = element("div");
    row.append(element("dt", f.label), element("dd", show(f)));
    list.append(row);
  }
  box.append(list);
  return box;
}

// What people look for first, by part and key.
const first = [
  ["uplink", "unconfirmed", "records wait on this device"],
  ["uplink", "oldest_unsent", "is the oldest unsent one old"],
  ["uplink", "caught_up_in", "until the cloud has everything"],
  ["outbox", "time_to_full", "until the outbox is full"],
];

function headline(parts) {
  return first.flatMap(([name, key, text]) => {
    const fact = parts.find((p) => p.name === name)?.facts?.find((f) => f.key === key);
    if (!fact) return [];
    const box = element("p");
    box.append(element("strong", show(fact)), element("span", text));
    return [box];
  });
}

async function refresh() {
  const line = document.getElementById("line");
  const parts = document.getElementById("parts");
  try {
    const answer = await fetch("v1/status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const r = await answer.json();
    document.title = `${r.agent} · Holdfast`;
    document.getElementById("agent").textContent = r.agent;
    line.textContent = `${r.ready ? "Ready" : "Not ready"} · version ${r.version} · epoch ${r.epoch} · up ${seconds(r.uptime_seconds)}`;
    document.getElementById("first").replaceChildren(...headline(r.parts));
    parts.replaceChildren(...r.parts.map(part));
    parts.classList.remove("stale");
  } catch (e) {
    line.textContent = `The agent does not answer (${e.message}). What is shown is what it said last.`;
    parts.classList.add("stale");
  } finally {
    setTimeout(refresh, 2000);
  }
}

refresh();
