// What every page is made of. Whatever came from the network is put in as text:
// nothing here makes HTML out of a string.

const numbers = new Intl.NumberFormat();
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export const number = (n) => numbers.format(n);

/** h makes an element: h("td", {class: "n"}, "text", node, …). */
export function h(tag, attributes = {}, ...children) {
  const e = tag === "svg" || tag === "rect" || tag === "title" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...children.filter((c) => c !== undefined && c !== null && c !== false));
  return e;
}

/** time shows an instant in the reader's zone, all of it on hover. */
export function time(text, empty = "never") {
  if (!text) return h("span", { class: "dim" }, empty);
  const t = new Date(text);
  const today = t.toDateString() === new Date().toDateString();
  return h("time", { datetime: text, title: `${moment.format(t)} (${text})` }, (today ? clock : moment).format(t));
}

export function ago(text, empty = "never") {
  if (!text) return h("span", { class: "dim" }, empty);
  return h("time", { datetime: text, title: moment.format(new Date(text)) }, `${span((Date.now() - new Date(text)) / 1000)} ago`);
}

/** span writes a number of seconds as people say it. */
export function span(s) {
  s = Math.max(0, Math.round(s));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** table makes a table; columns are [title, class] and rows arrays of cells. The
    first cell of a row is its header. */
export function table(caption, columns, rows) {
  const cell = (c, i) => h(i ? "td" : "th", { class: columns[i][1], scope: i ? undefined : "row" }, c);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, h("table", {},
    h("thead", {}, h("tr", {}, ...columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map(cell))))));
}

/** payload shows a payload cut to a length; a click shows all of it. */
export function payload(r, length = 300) {
  const text = r.payload_encoding === "base64" ? `${bytes(r).length} bytes` : r.payload;
  if (text.length <= length && r.payload_encoding === "utf-8") return text || h("span", { class: "dim" }, "empty");
  return h("button", { class: "link", type: "button", onclick: () => raw(r) }, text.length > length ? text.slice(0, length) + "…" : text);
}

export function bytes(r) {
  if (r.payload_encoding === "utf-8") return new TextEncoder().encode(r.payload);
  return Uint8Array.from(atob(r.payload), (c) => c.charCodeAt(0));
}

/** hex dumps bytes as people read them. */
export function hex(b, most = 16384) {
  const lines = [];
  for (let i = 0; i < Math.min(b.length, most); i += 16) {
    const row = b.subarray(i, i + 16);
    const digits = Array.from(row, (x) => x.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    lines.push(`${i.toString(16).padStart(6, "0")}  ${digits}  ${Array.from(row, (x) => (x > 31 && x < 127 ? String.fromCharCode(x) : ".")).join("")}`);
  }
  if (b.length > most) lines.push(`… ${number(b.length - most)} bytes more`);
  return lines.join("\n");
}

/** raw opens a view of any payload: as text, as JSON, as bytes, to a file. */
export function raw(r) {
  const b = bytes(r);
  const views = { bytes: () => hex(b) };
  if (r.payload_encoding === "utf-8") {
    views.text = () => r.payload;
    try {
      const value = JSON.parse(r.payload);
      views.JSON = () => JSON.stringify(value, null, 2);
    } catch { /* not JSON: there is the text */ }
  }
  show(`${r.topic}`, [
    h("p", { class: "dim" }, `${r.agent} · epoch ${r.epoch} · seq ${number(r.seq)} · QoS ${r.qos}${r.dup ? " · sent again" : ""} · ${number(b.length)} bytes`),
    h("p", { class: "dim" }, "recorded ", time(r.recorded_at), " · corrected ", time(r.corrected_at), " · received ", time(r.received_at)),
  ], views, b, `${r.agent}-${r.epoch}-${r.seq}.bin`);
}

/** show opens a dialog with some views of the same bytes. */
export function show(title, about, views, b, file) {
  const pre = h("pre", { tabindex: 0 });
  const names = Object.keys(views).reverse();
  const choose = (name) => {
    pre.textContent = views[name]();
    for (const button of buttons) button.setAttribute("aria-pressed", button.textContent === name);
  };
  const buttons = names.map((name) => h("button", { type: "button", onclick: () => choose(name) }, name));
  const d = h("dialog", { "aria-label": title, onclose: () => d.remove() },
    h("div", { class: "head" }, h("h2", { class: "wrap" }, title), h("div", { class: "end" }, ...buttons,
      h("button", { type: "button", onclick: () => download(b, file) }, "Save"),
      h("button", { type: "button", class: "main", onclick: () => d.close() }, "Close"))),
    ...about, pre);
  choose(names[0]);
  document.body.append(d);
  d.showModal();
}

function download(b, file) {
  const url = URL.createObjectURL(new Blob([b], { type: "application/octet-stream" }));
  h("a", { href: url, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** keep replaces the children of an element only when they differ, so that a
    refresh takes away neither the focus nor a selection. */
export function keep(e, ...children) {
  const next = h("div", {}, ...children);
  if (next.innerHTML !== e.innerHTML) e.replaceChildren(...next.childNodes);
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const shapes = [
  [86400, { month: "short", day: "numeric" }], [60, { hour: "2-digit", minute: "2-digit" }], [0, { hour: "2-digit", minute: "2-digit", second: "2-digit" }],
].map(([step, shape]) => [step, new Intl.DateTimeFormat(undefined, shape)]);
const day = shapes[0][1];

/** marks writes the times under a chart, a day where it begins. */
function marks(_, ticks, __, ___, step) {
  const shape = shapes.find(([least]) => step >= least)[1];
  return ticks.map((s) => {
    const t = new Date(s * 1000);
    return t.getHours() + t.getMinutes() + t.getSeconds() === 0 ? day.format(t) : shape.format(t);
  });
}

/** chart draws lines over time into a box: xs in seconds, series of [title, css
    color, values, fill]. With a band, what lies between the first two is filled.
    It returns what removes it. */
export function chart(box, xs, series, { format = number, band = false } = {}) {
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const size = () => ({ width: Math.max(240, box.clientWidth), height: 250 });
  const plot = new uPlot({
    ...size(),
    cursor: { y: false },
    axes: [{ ...axis, values: marks }, { ...axis, size: 70, values: (_, ticks) => ticks.map(format) }],
    bands: band ? [{ series: [2, 1], fill: color(series[0][1]) + "30" }] : undefined,
    series: [{ value: (_, v) => (v === null || v === undefined ? "–" : moment.format(new Date(v * 1000))) }, ...series.map(([label, name, , fill], i) => ({
      label, stroke: color(name), width: band && i < 2 ? 0.7 : 1.8, fill: fill ? color(name) + "33" : undefined, points: { show: xs.length < 40 },
      value: (_, v) => (v === null || v === undefined ? "–" : format(v)),
    }))],
  }, [xs, ...series.map((s) => s[2])], box);
  const watch = new ResizeObserver(() => plot.setSize(size()));
  watch.observe(box);
  return () => { watch.disconnect(); plot.destroy(); };
}
