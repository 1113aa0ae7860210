import { every, get } from "./api.js";
import { chart, h, keep, number, payload, table, time } from "./ui.js";

const spans = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 days", 604800], ["30 days", 2592000]];

/** fields lists the JSON pointers of the numbers in a payload. */
export function fields(r) {
  const out = [];
  const walk = (v, at) => {
    if (typeof v === "number") out.push(at);
    else if (v && typeof v === "object") for (const [k, x] of Object.entries(v)) if (out.length < 200) walk(x, `${at}/${k.replaceAll("~", "~0").replaceAll("/", "~1")}`);
  };
  if (r.payload_encoding !== "utf-8") return out;
  try { walk(JSON.parse(r.payload), ""); } catch { /* no JSON, no numbers */ }
  return out;
}

/** grow puts topics into a tree by their levels. */
function grow(topics) {
  const root = { children: new Map() };
  for (const t of topics) {
    let node = root;
    for (const level of t.topic.split("/")) {
      if (!node.children.has(level)) node.children.set(level, { children: new Map() });
      node = node.children.get(level);
    }
    node.topic = t.topic;
  }
  return root;
}

/** explore shows what is in the readings: topics, a field over time, raw payloads. */
export function explore(main, parameters, go) {
  const agents = h("select", { "aria-label": "Agent", onchange: () => go({ agent: agents.value }) });
  const search = h("input", { type: "search", placeholder: "Find a topic", "aria-label": "Find a topic", oninput: () => drawTree() });
  const tree = h("nav", { class: "tree", "aria-label": "Topics" });
  const field = h("select", { onchange: () => go({ ...parameters, field: field.value }) });
  const range = h("select", { onchange: () => go({ ...parameters, span: range.value }) }, ...spans.map(([name, s]) => h("option", { value: s }, name)));
  const plot = h("div", { class: "chart" });
  const note = h("p", { class: "quiet" });
  const values = h("div");
  const title = h("h1", {}, "Explore");
  const chartBox = h("section", { "aria-label": "Chart", hidden: true },
    h("div", { class: "head" }, h("h2", {}, "Over time"), h("div", { class: "end" }, h("label", {}, "Field", field), h("label", {}, "Show the last", range))), plot, note);
  main.replaceChildren(h("div", { class: "head" }, title),
    h("div", { class: "split" },
      h("section", { "aria-label": "Choose" }, h("div", { class: "head" }, h("label", {}, "Agent", agents)), search, tree),
      h("div", { class: "stack" }, chartBox, h("section", { "aria-label": "Readings" }, h("h2", {}, "Latest readings"), values))));
  range.value = parameters.span || "3600";
  let topics = [], remove = () => {}, drawnAt = 0, known = "";

  function branch(node, name, path, force) {
    const kids = [...node.children].map(([k, n]) => branch(n, k, `${path}${k}/`, force)).filter(Boolean);
    const own = node.topic !== undefined && (!force || node.topic.toLowerCase().includes(force));
    if (!own && !kids.length) return null;
    const here = node.topic !== undefined && node.topic === parameters.topic;
    const label = own ? h("button", { type: "button", "aria-current": here || undefined, onclick: () => go({ agent: agents.value, topic: node.topic }) }, name || "(empty level)") : null;
    if (!kids.length) return h("li", {}, label);
    const inside = parameters.topic !== undefined && parameters.topic.startsWith(path);
    return h("li", {}, label, h("details", { open: Boolean(force) || inside || topics.length < 40 }, h("summary", {}, `${name || "(empty level)"}/`), h("ul", {}, ...kids)));
  }

  function drawTree() {
    const force = search.value.trim().toLowerCase();
    const kids = [...grow(topics).children].map(([k, n]) => branch(n, k, `${k}/`, force)).filter(Boolean);
    tree.replaceChildren(kids.length ? h("ul", {}, ...kids) : h("p", { class: "quiet" }, topics.length ? "No topic matches." : "This agent has no topics yet."));
  }

  async function choose() {
    const list = await every("agents", "agents");
    agents.replaceChildren(...list.map((a) => h("option", {}, a.id)));
    if (!list.length) {
      tree.replaceChildren(h("p", { class: "quiet" }, "No agent is enrolled yet."));
      keep(values, h("p", { class: "quiet" }, "Nothing to show yet."));
      return false;
    }
    if (parameters.agent === undefined) return go({ agent: list[0].id }, true), false;
    agents.value = parameters.agent;
    topics = await every(`agents/${encodeURIComponent(parameters.agent)}/topics`, "topics", { limit: 10000 }, 5);
    drawTree();
    return true;
  }

  function offer(list) {
    const found = [...new Set(list.flatMap(fields))].slice(0, 200);
    if (parameters.field !== undefined && !found.includes(parameters.field)) found.unshift(parameters.field);
    const key = JSON.stringify(found);
    if (key === known) return found.length > 0;
    known = key;
    const chosen = parameters.field ?? found.find((f) => !/(^|\/)(ts|time|timestamp|seq|n|id)$/i.test(f)) ?? found[0];
    field.replaceChildren(...found.map((f) => h("option", { value: f, selected: f === chosen }, f === "" ? "(the whole payload)" : f)));
    return found.length > 0;
  }

  async function draw() {
    if (Date.now() - drawnAt < 10000) return;
    drawnAt = Date.now();
    const to = new Date(), from = new Date(to - range.value * 1000);
    const s = await get("series", { agent: parameters.agent, topic: parameters.topic, field: field.value, from: from.toISOString(), to: to.toISOString(), buckets: 300 });
    remove();
    remove = () => {};
    if (!s.buckets.length) {
      plot.replaceChildren(h("p", { class: "quiet" }, `No reading of this time has a number at ${field.value || "its top"}. Show a longer time, or choose another field.`));
      note.textContent = "";
      return;
    }
    plot.replaceChildren();
    const format = (v) => new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 }).format(v);
    const width = (to - from) / 300000;
    const xs = [], rows = [];
    for (const b of s.buckets) {
      const x = new Date(b.at) / 1000;
      // A time without readings is a gap, not a line across it.
      if (xs.length && x - xs.at(-1) > 20 * width) { xs.push(x - width); rows.push({ min: null, max: null, avg: null }); }
      xs.push(x);
      rows.push(b);
    }
    remove = chart(plot, xs, [["lowest", "--device", rows.map((b) => b.min)], ["highest", "--device", rows.map((b) => b.max)], ["average", "--accent", rows.map((b) => b.avg)]], { format, band: true });
    note.textContent = `${number(s.readings)} readings${s.readings_other ? `, ${number(s.readings_other)} of them without a number there` : ""}. By corrected time.`;
  }

  let ready;
  return async () => {
    ready ??= await choose();
    if (!ready) return;
    const topic = parameters.topic;
    title.textContent = topic === undefined ? `Explore ${parameters.agent}` : topic || "(the empty topic)";
    const one = Boolean(topic) && topic.replace(/[#+]/g, "") === topic; // then its name stands above
    const page = topic === "" ? { readings: [] } : await get("readings", { agent: parameters.agent, topic: one ? topic : undefined, order: "desc", limit: 30 });
    keep(values, page.readings.length
      ? table("Latest readings", [["Recorded"], ...(one ? [] : [["Topic", "wrap"]]), ["Payload", "payload mono"], ["QoS", "n"], ["Epoch · seq", "n"]],
        page.readings.map((r) => [time(r.corrected_at), ...(one ? [] : [r.topic]), payload(r), String(r.qos) + (r.dup ? ", again" : ""), `${r.epoch.split("-")[0]} · ${number(r.seq)}`]))
      : h("p", { class: "quiet" }, "No reading is here."));
    if (topic === undefined) return;
    chartBox.hidden = !offer(page.readings);
    if (!chartBox.hidden) await draw();
  };
}
