import { get, post } from "./api.js";
import { remaining, stateOf } from "./fleet.js";
import { ago, chart, h, keep, number, table, time } from "./ui.js";

// Where a record can be, in the order that the bar draws over each other: what a
// person has to see comes last.
const places = [
  ["held", "k-held", "held"], ["expired", "k-expired", "expired: held once, removed by retention"], ["on_device", "k-device", "on the device still"],
  ["quarantined", "k-kept", "kept raw in quarantine"], ["lost", "k-lost", "lost, and the device said why"],
  ["pending", "k-pending", "gone from the device, the explanation on its way"], ["unexplained", "k-gone", "unexplained"],
];
const count = (list) => list.reduce((n, r) => n + r.last - r.first + 1, 0);

/** bar draws one ledger: every record of the epoch from 1 on. */
function bar(e) {
  const top = Math.max(e.durable, ...places.flatMap(([key]) => e[key].map((r) => r.last)), 1);
  const words = places.filter(([key]) => e[key].length).map(([key, , text]) => `${number(count(e[key]))} ${text}`).join(", ");
  const svg = h("svg", { class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": `Epoch ${e.epoch}: ${words || "nothing"}` });
  for (const [key, kind, text] of places) {
    for (const r of e[key]) {
      const x = ((r.first - 1) / top) * 1000;
      // A range is never too thin to be seen.
      const width = Math.max(1.5, ((r.last - r.first + 1) / top) * 1000);
      svg.append(h("rect", { class: kind, x: Math.min(x, 998.5), width, y: 0, height: 10 }, h("title", {}, `${number(r.first)}–${number(r.last)}: ${r.reason || text}`)));
    }
  }
  return svg;
}

function epoch(e) {
  const rows = places.flatMap(([key, , text]) => e[key].map((r) => [text, number(r.first), number(r.last), number(r.last - r.first + 1), r.reason || ""]));
  return h("div", { class: "epoch" },
    h("div", { class: "head" }, h("strong", { class: "mono" }, e.epoch),
      h("span", { class: "dim" }, `confirmed through ${number(e.watermark)} of ${number(e.durable)}`),
      e.start ? h("span", { class: "dim" }, `agent ${e.start.version || "?"}${e.start.previous ? (e.start.previous_clean ? ", after a clean stop" : ", after a cut or crash") : ", the first"}`) : null,
      h("span", { class: "dim end" }, "heard of ", ago(e.seen_at || e.received_at))),
    bar(e),
    h("details", {}, h("summary", {}, "Ranges"),
      rows.length ? table(`Ranges of epoch ${e.epoch}`, [["Where"], ["First", "n"], ["Last", "n"], ["Records", "n"], ["Reason"]], rows) : h("p", { class: "quiet" }, "None."),
      e.oversized ? h("p", { class: "dim" }, `${number(e.oversized)} messages were larger than the device takes.`) : null,
      e.truncated ? h("p", { class: "dim" }, "There are more ranges than are shown.") : null));
}

const spans = [["1 h", 3600], ["24 h", 86400], ["7 days", 7 * 86400], ["30 days", 30 * 86400]];

/** agent is the page of one agent: where every one of its records is. */
export function agent(main, id, me) {
  const head = h("div", { class: "head" });
  const tiles = h("div");
  const alarmBox = h("section", { hidden: true, "aria-label": "Alarms" });
  const plot = h("div", { class: "chart" });
  const range = h("select", { onchange: () => { drawn = ""; backlog(); } }, ...spans.map(([name, s]) => h("option", { value: s, selected: s === 86400 }, name)));
  const ledger = h("div");
  const path = `agents/${encodeURIComponent(id)}`;
  let drawn = "", remove = () => {}, backlogAt = 0;
  main.replaceChildren(head, tiles, alarmBox,
    h("section", { "aria-label": "Backlog" }, h("div", { class: "head" }, h("h2", {}, "On the device over time"), h("div", { class: "end" }, h("label", {}, "Show the last", range))), plot),
    h("section", { "aria-label": "Ledger" }, h("h2", {}, "Ledger"),
      h("ul", { class: "legend" }, ...places.map(([, kind, text]) => h("li", {}, h("i", { class: kind }), text))), ledger));

  async function backlog() {
    backlogAt = Date.now();
    const from = new Date(Date.now() - range.value * 1000).toISOString();
    const { samples } = await get(`${path}/backlog`, { from });
    const key = JSON.stringify([samples.length, samples.at(-1)]);
    if (key === drawn) return;
    drawn = key;
    remove();
    remove = () => {};
    if (samples.length < 2) {
      plot.replaceChildren(h("p", { class: "quiet" }, "There is nothing to draw yet: the backlog is noted once a minute while the agent is heard."));
      return;
    }
    plot.replaceChildren();
    remove = chart(plot, samples.map((s) => new Date(s.at) / 1000), [["On the device", "--device", samples.map((s) => s.on_device), true]]);
  }

  async function acknowledge() {
    await post(`${path}/acknowledge`);
    await update();
  }

  async function admit(verb, question) {
    if (!confirm(question)) return;
    await post(`${path}/${verb}`);
    await update();
  }

  /** admission is the button that shuts the agent out or takes it back. */
  function admission(a) {
    if (me.role !== "admin") return null;
    return a.revoked_at
      ? h("button", { type: "button", id: "allow" }, "Allow again")
      : h("button", { type: "button", id: "revoke" }, "Revoke");
  }

  async function update() {
    const a = await get(path, { limit: 30 });
    keep(head, h("h1", {}, a.id), stateOf(a), a.revoked_at ? h("span", { class: "dim" }, "since ", time(a.revoked_at), ": nothing more is taken from it; what it has stays on the device") : null,
      h("div", { class: "end" }, h("a", { href: `#/explore?agent=${encodeURIComponent(a.id)}` }, "Explore its readings"), admission(a)));
    for (const [verb, question] of [["revoke", `Take nothing more from ${id}?`], ["allow", `Take ${id} back, with the key that it has?`]]) {
      const button = head.querySelector(`#${verb}`);
      if (button) button.onclick = () => admit(verb, question).catch((e) => alert(e.message));
    }
    const tile = (title, ...value) => h("div", { class: "tile" }, h("dt", {}, title), h("dd", {}, ...value));
    keep(tiles, h("dl", { class: "tiles" },
      tile("Last seen", ago(a.last_seen)), tile("Confirmed through", time(a.confirmed_through, "nothing yet")), tile("On the device still", number(a.on_device)),
      tile("Caught up in", remaining(a)), tile("Held", number(a.held)), tile("Lost", number(a.lost)), tile("Unexplained", number(a.unexplained)),
      tile("Sent again by publishers", number(a.redelivered)), tile("Epochs on the device", number(a.open_epochs))));
    alarmBox.hidden = a.alarms.length === 0;
    const clearable = me.role === "admin" && a.alarms.some((l) => l.kind !== "hole");
    keep(alarmBox, h("div", { class: "head" }, h("h2", {}, "Alarms"), clearable ? h("div", { class: "end" }, h("button", { type: "button", id: "acknowledge" }, "I have looked at them")) : null),
      h("ul", { class: "alarms" }, ...a.alarms.map((l) => h("li", {}, h("strong", {}, l.kind), " · ", l.detail, " ",
        h("span", { class: "dim" }, l.count > 1 ? `${number(l.count)} times, last ` : "", ago(l.last_at))))));
    const button = alarmBox.querySelector("#acknowledge");
    if (button) button.onclick = () => acknowledge().catch((e) => alert(e.message));
    const open = new Set([...ledger.querySelectorAll("details[open]")].map((d) => d.closest(".epoch").querySelector("strong").textContent));
    const list = a.epochs.map(epoch);
    for (const e of list) if (open.has(e.querySelector("strong").textContent)) e.querySelector("details").open = true;
    keep(ledger, ...(list.length ? list : [h("p", { class: "quiet" }, "This agent has sent nothing yet.")]), a.next ? h("p", { class: "dim" }, "Older epochs are left out here; the API has them all.") : "");
    if (Date.now() - backlogAt > 30000) await backlog();
  }
  return update;
}
