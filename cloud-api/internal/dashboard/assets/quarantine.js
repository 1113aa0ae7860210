import { get } from "./api.js";
import { h, hex, keep, number, show, table, time } from "./ui.js";

/** quarantine shows what could not be stored, and what nobody's key vouched for. */
export function quarantine(main, me) {
  const box = h("div");
  main.replaceChildren(h("div", { class: "head" }, h("h1", {}, "Quarantine")),
    h("section", { "aria-label": "Quarantine" },
      h("p", { class: "quiet" }, "A frame with a good signature that cannot be stored is kept here whole, and its records count as held. Of events that no known key signed, or that a revoked agent sent, only a sample is kept: they store nothing."), box));

  async function open(f) {
    const q = await get(`quarantine/${f.id}`);
    const b = Uint8Array.from(atob(q.raw || ""), (c) => c.charCodeAt(0));
    show(`Frame ${number(q.id)}`, [h("p", { class: "dim" }, `${q.agent || "no agent"} · ${q.why} · ${number(q.size)} bytes`)], { bytes: () => hex(b) }, b, `frame-${q.id}.bin`);
  }

  return async () => {
    if (me.role !== "admin") {
      keep(box, h("p", { class: "quiet" }, "Only a token with the role admin may look at these."));
      return;
    }
    const { frames } = await get("quarantine", { limit: 200 });
    keep(box, frames.length
      ? table("Quarantine", [["Received"], ["Agent, as claimed", "wrap"], ["Kept"], ["Epoch · seqs"], ["Why", "wrap"], ["Bytes", "n"], [""]],
        frames.map((f) => [time(f.received_at), f.agent || "–", f.trusted ? h("span", { class: "warn" }, "whole") : h("span", { class: "dim" }, "a sample"),
          f.seqs ? `${f.epoch.split("-")[0]} · ${number(f.seqs.first)}–${number(f.seqs.last)}` : "–", f.why, number(f.size),
          h("button", { type: "button", onclick: () => open(f).catch((e) => alert(e.message)) }, "Look")]))
      : h("p", { class: "quiet" }, "Empty: every frame that arrived could be stored."));
  };
}
