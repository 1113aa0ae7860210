// Talks to the API beside this page. A token, where one is needed, is kept for
// as long as the tab is open and nowhere else.

const store = "holdfast-token";

/** NeedToken is thrown when the API wants a token, or another one. */
export class NeedToken extends Error {}

export function setToken(token) {
  if (token) sessionStorage.setItem(store, token);
  else sessionStorage.removeItem(store);
}

async function call(method, path) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem(store);
  if (token) headers.Authorization = "Bearer " + token;
  let answer;
  try {
    answer = await fetch(path, { method, headers });
  } catch {
    throw new Error("the server does not answer");
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new NeedToken(token ? "this token is not known" : "");
  throw new Error(problem.detail || `the server answered ${answer.status}`);
}

export const get = (path, parameters = {}) => {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== undefined && v !== "" && v !== null)).toString();
  return call("GET", "v1/" + path + (query ? "?" + query : ""));
};
export const post = (path) => call("POST", "v1/" + path);

/** every follows `next` to its end, at most so many pages. */
export async function every(path, list, parameters = {}, pages = 20) {
  const out = [];
  for (let after; pages > 0; pages--) {
    const page = await get(path, { ...parameters, after });
    out.push(...page[list]);
    if (!page.next) break;
    after = page.next;
  }
  return out;
}
