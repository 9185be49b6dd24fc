// Routes, polling and banners. `#/` is the list, `#/rollout/<id>` one rollout; in a DAG's tab the address says whose.

import { Failure, get } from "./api.js";
import { detail } from "./detail.js";
import { h, morph, show, tick } from "./dom.js";
import { followTheme, keepAddress, reloadAirflow } from "./frame.js";
import { list, listPath } from "./list.js";

const POLL = 3000;
const SLOWEST = 30_000;
const main = document.getElementById("main");
const banners = document.getElementById("banners");
const given = new URLSearchParams(location.search);
const state = { generation: 0, wait: POLL, timer: 0, content: null, failure: null, notices: [] };

followTheme();

function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const found = /^\/rollout\/([^/]+)$/.exec(path);
  if (found) return { kind: "rollout", id: decodeURIComponent(found[1]) };
  return { kind: "list", query: new URLSearchParams(query ?? "") };
}

// In the tab of a DAG or of a run the page is about that one.
async function ofTab() {
  const dag = given.get("dag_id");
  if (!dag) return {};
  const run = given.get("run_id") ?? "";
  const path = `api/of-run?dag_id=${encodeURIComponent(dag)}&run_id=${encodeURIComponent(run)}`;
  const { content } = await get(path);
  return { dag, run, ...content };
}

async function load(current) {
  const tab = await ofTab();
  if (current.kind === "list" && tab.dag) {
    if (!tab.pattern) {
      return { tab, draw: () => [h("h1", {}, "Rollouts"), h("p", { class: "empty" },
        `The DAG ${tab.dag} is none of the rollout patterns, so it has no rollouts. `,
        "Canary, A/B test, blue-green, shadow and gradual have.")] };
    }
    if (tab.run && tab.rollouts.length === 1) current = { kind: "rollout", id: tab.rollouts[0] };
    else if (tab.run && !tab.rollouts.length) {
      return { tab, draw: () => [h("h1", {}, "No rollout yet"), h("p", { class: "empty" },
        `The run ${tab.run} has started no rollout. Its task preflight does, once everything that must hold holds; `,
        "where that failed or was skipped, its log says why.")] };
    }
  }
  if (current.kind === "rollout") {
    const path = `api/rollouts/${encodeURIComponent(current.id)}`;
    const { content, changed } = await get(path);
    return { tab, changed, quick: !content.evidence.complete, draw: () => detail(content, { tab, refresh, notify }) };
  }
  const { content, changed } = await get(listPath(current.query, tab.pattern));
  return { tab, changed, draw: () => list(content, current.query, tab, go) };
}

export function go(hash) {
  if (location.hash === hash) refresh();
  else location.hash = hash;
}

function notify(kind, ...children) {
  const notice = { kind, children, until: Date.now() + (kind === "good" ? 12_000 : 120_000) };
  state.notices.push(notice);
  drawBanners();
}

function drawBanners() {
  state.notices = state.notices.filter((each) => each.until > Date.now());
  const shown = state.notices.map((each, i) => h("div", { class: `banner ${each.kind}`, "data-key": `n${i}` },
    h("div", {}, ...each.children.map((child) => (child instanceof Node ? child.cloneNode(true) : child))),
    h("button", { class: "plain", "aria-label": "Dismiss", onclick: () => {
      state.notices.splice(state.notices.indexOf(each), 1);
      drawBanners();
    } }, "✕")));
  if (state.failure) shown.unshift(failureBanner(state.failure));
  show(banners, ...shown);
}

function failureBanner(failure) {
  if (failure.status === 401) {
    return h("div", { class: "banner bad", "data-key": "failure" }, h("div", {}, "You are not logged in to Airflow any more."),
      h("button", { onclick: reloadAirflow }, "Log in again"));
  }
  const stale = state.content ? " What is shown is what was last known." : "";
  return h("div", { class: "banner bad", "data-key": "failure" }, h("div", {}, failure.message + stale),
    h("button", { onclick: refresh }, "Try again"));
}

async function refresh() {
  clearTimeout(state.timer);
  const generation = ++state.generation;
  try {
    const loaded = await load(route());
    if (generation !== state.generation) return;
    const again = loaded.changed !== false || state.failure || !state.content;
    state.failure = null;
    state.content = loaded;
    state.wait = loaded.quick ? 700 : POLL;
    if (again) draw();
  } catch (error) {
    if (generation !== state.generation) return;
    state.failure = error instanceof Failure ? error : new Failure(-1, { detail: `The page has a fault: ${error.message}` });
    state.wait = Math.min(SLOWEST, state.wait * 2);
    if (error.status === 404 || error.status === 403) {
      state.content = null;
      show(main, h("h1", {}, "Not here"), h("p", { class: "empty" }, error.message),
        h("p", {}, h("a", { href: "#/" }, "All rollouts")));
      state.failure = null;
    } else if (!state.content) show(main, h("p", { class: "quiet" }, "Nothing could be loaded yet."));
  }
  drawBanners();
  if (!document.hidden) state.timer = setTimeout(refresh, state.wait);
}

function draw() {
  const fresh = main.cloneNode(false);
  fresh.append(...state.content.draw().flat(Infinity).filter((each) => each));
  morph(main, fresh);
  document.title = main.querySelector("h1")?.textContent ?? "Rollouts";
}

addEventListener("hashchange", () => {
  state.content = null;
  show(main, h("p", { class: "quiet" }, "Loading …"));
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
  keepAddress();
  refresh();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(state.timer);
  if (!document.hidden) refresh();
});
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width && state.content) {
    width = innerWidth;
    draw();
  }
});
setInterval(() => {
  if (document.hidden) return;
  tick(document);
  if (state.notices.some((each) => each.until <= Date.now())) drawBanners();
}, 1000);
keepAddress();
refresh();
