// Chooses the page by the address after #, and lets it look again every two
// seconds while somebody can see it.
import { agent } from "./agent.js";
import { get, NeedToken, setToken } from "./api.js";
import { explore } from "./explore.js";
import { fleet } from "./fleet.js";
import { quarantine } from "./quarantine.js";
import { h } from "./ui.js";

const refresh = 2000;
const main = document.getElementById("main");
const error = document.getElementById("error");
const updated = document.getElementById("updated");
let visit = 0; // so that a page that was left shows nothing any more

function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const [page = "", id = ""] = path.split("/").slice(1).map(decodeURIComponent);
  return { page: page || "fleet", id, parameters: Object.fromEntries(new URLSearchParams(query)) };
}

/** go shows another view of a page, as an address that can be kept. */
function go(parameters, replace = false) {
  const hash = "#/explore?" + new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== undefined));
  if (replace) { history.replaceState(null, "", hash); visitPage(); } else location.hash = hash;
}

const pages = {
  fleet: (_, me) => fleet(main, me),
  agent: ({ id }, me) => agent(main, id, me),
  explore: ({ parameters }) => explore(main, parameters, go),
  quarantine: (_, me) => quarantine(main, me),
};

function askForToken(why) {
  const input = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Access token" });
  main.replaceChildren(h("section", {}, h("h1", {}, "Access token"),
    h("p", { class: "quiet" }, "This server asks who reads. Make a token with ", h("code", {}, "cloud-api access create NAME"), ". It is kept until the tab is closed."),
    why ? h("p", { class: "bad" }, why) : null,
    h("form", { class: "head", onsubmit: (e) => { e.preventDefault(); setToken(input.value.trim()); visitPage(); } }, input, h("button", { class: "main" }, "Show the data"))));
  input.focus();
}

function fail(e) {
  if (e instanceof NeedToken) {
    setToken("");
    visit++;
    askForToken(e.message);
    return;
  }
  error.textContent = `Cannot read from the cloud: ${e.message}. What is shown may be old; this page goes on trying.`;
  error.hidden = false;
}

async function visitPage() {
  const mine = ++visit;
  const r = route();
  for (const a of document.querySelectorAll("nav a[data-page]")) {
    if (a.dataset.page === r.page || (a.dataset.page === "fleet" && r.page === "agent")) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = (r.page === "agent" ? r.id : r.page[0].toUpperCase() + r.page.slice(1)) + " · Holdfast";
  error.hidden = true;
  let update;
  while (mine === visit) {
    if (!document.hidden) {
      try {
        if (!update) {
          const me = await get("me");
          if (mine !== visit) return;
          if (!pages[r.page]) throw new Error("there is no such page");
          update = pages[r.page](r, me);
        }
        await update();
        if (mine !== visit) return;
        error.hidden = true;
        updated.textContent = `As of ${new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }).format(new Date())}`;
      } catch (e) {
        if (mine === visit) fail(e);
      }
    }
    await new Promise((wake) => { setTimeout(wake, refresh); document.addEventListener("visibilitychange", wake, { once: true }); });
  }
}

addEventListener("hashchange", () => { visitPage(); main.focus(); scrollTo(0, 0); });
visitPage();
