import { every, get } from "./api.js";
import { ago, h, keep, number, payload, span, table, time } from "./ui.js";

const quietAfter = 180; // seconds; an idle agent sends a frame a minute

/** state says in a word how an agent is. */
export function state(a) {
  if (a.revoked_at) return ["revoked", "bad"];
  if (a.alarms.length) return ["alarm", "bad"];
  if (!a.last_seen) return ["never heard of", "dim"];
  if ((Date.now() - new Date(a.last_seen)) / 1000 > quietAfter) return ["silent", "warn"];
  if (a.on_device > 0) return ["catching up", "warn"];
  return ["up to date", "good"];
}

// What a person has to act on comes first.
const urgency = ["alarm", "revoked", "silent", "catching up", "never heard of", "up to date"];
const byUrgency = (a, b) => urgency.indexOf(state(a)[0]) - urgency.indexOf(state(b)[0]) || (a.id < b.id ? -1 : 1);

const speeds = new Map(); // agent → how fast its backlog shrinks

/** remaining estimates, from one look to the next, how long an agent still needs. */
export function remaining(a) {
  const now = Date.now() / 1000;
  const s = speeds.get(a.id) || { at: now, left: a.on_device, rate: 0 };
  if (now - s.at >= 1.5) {
    const rate = (s.left - a.on_device) / (now - s.at);
    s.rate = s.rate ? 0.7 * s.rate + 0.3 * rate : rate;
    s.at = now;
    s.left = a.on_device;
  }
  speeds.set(a.id, s);
  if (a.on_device === 0) return "–";
  return s.rate > 0 ? span(a.on_device / s.rate) : "not known";
}

export const stateOf = (a) => {
  const [word, kind] = state(a);
  return h("span", { class: `state ${kind}` }, word);
};

/** fleet is the page that everything begins with. */
export function fleet(main) {
  const tiles = h("div");
  const search = h("input", { type: "search", placeholder: "Filter by id or state", "aria-label": "Filter agents by id or state", oninput: () => list(agents) });
  const box = h("div");
  const alarmBox = h("section", { hidden: true, "aria-label": "Alarms" }, h("h2", {}, "Alarms"), h("ul", { class: "alarms" }));
  const latest = h("div");
  let agents = [];
  main.replaceChildren(tiles, alarmBox,
    h("section", { "aria-label": "Agents" }, h("div", { class: "head" }, h("h2", {}, "Agents"), h("div", { class: "end" }, search)), box),
    h("section", { "aria-label": "Latest readings" }, h("h2", {}, "Latest readings"), latest));

  const sum = (key) => agents.reduce((n, a) => n + a[key], 0);
  const count = (word) => agents.filter((a) => state(a)[0] === word).length;
  const tile = (title, value, note, kind) => h("div", { class: "tile" }, h("dt", {}, title), h("dd", { class: kind }, value, note ? h("small", {}, note) : null));

  function list() {
    const wanted = search.value.trim().toLowerCase();
    const rows = agents.filter((a) => !wanted || a.id.includes(wanted) || state(a)[0].includes(wanted)).map((a) => [
      h("a", { href: `#/agent/${encodeURIComponent(a.id)}` }, a.id), stateOf(a), ago(a.last_seen), time(a.confirmed_through, "nothing yet"),
      number(a.on_device), remaining(a), number(a.held),
      h("span", { class: a.lost ? "warn" : "" }, number(a.lost)), h("span", { class: a.unexplained ? "bad" : "" }, number(a.unexplained)), number(a.redelivered),
    ]);
    if (!agents.length) {
      keep(box, h("p", { class: "quiet" }, "No agent is enrolled yet. Make a token with ", h("code", {}, "cloud-api token create"), " and give it to ", h("code", {}, "edge-agent enroll"), " on the device."));
    } else if (!rows.length) {
      keep(box, h("p", { class: "quiet" }, "No agent matches the filter."));
    } else {
      keep(box, table("Agents", [["Agent"], ["State"], ["Last seen"], ["Confirmed through"], ["On the device still", "n"], ["Caught up in", "n"], ["Held", "n"],
        ["Lost", "n"], ["Unexplained", "n"], ["Sent again", "n"]], rows));
    }
  }

  return async () => {
    const [all, page] = await Promise.all([every("agents", "agents"), get("readings", { order: "desc", limit: 20 })]);
    agents = all.sort(byUrgency);
    keep(tiles, h("dl", { class: "tiles" },
      tile("Agents", number(agents.length), `${count("up to date")} up to date, ${count("catching up")} catching up, ${count("silent")} silent`),
      tile("Records held", number(sum("held"))),
      tile("On devices still", number(sum("on_device"))),
      tile("Lost, and why is known", number(sum("lost")), null, sum("lost") ? "warn" : ""),
      tile("Unexplained", number(sum("unexplained")), sum("unexplained") ? "look at the alarms" : "every gap is accounted for", sum("unexplained") ? "bad" : "good")));
    list();
    const alarms = agents.flatMap((a) => a.alarms.map((l) => [a, l]));
    alarmBox.hidden = alarms.length === 0;
    keep(alarmBox.querySelector("ul"), ...alarms.slice(0, 50).map(([a, l]) => h("li", {},
      h("a", { href: `#/agent/${encodeURIComponent(a.id)}` }, a.id), ` · ${l.kind} · `, l.detail, " ", h("span", { class: "dim" }, ago(l.last_at)))));
    keep(latest, page.readings.length
      ? table("Latest readings", [["Recorded"], ["Agent"], ["Topic", "wrap"], ["Payload", "payload mono"], ["Epoch · seq", "n"]],
        page.readings.map((r) => [time(r.corrected_at), r.agent, r.topic, payload(r), `${r.epoch.split("-")[0]} · ${number(r.seq)}`]))
      : h("p", { class: "quiet" }, "No reading has arrived yet. Publish one to the agent with any MQTT client, at QoS 1."));
  };
}
