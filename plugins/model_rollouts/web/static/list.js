// The list of rollouts: what needs a person first, then what runs, then what has ended.

import { count, digits, h, ticking, time } from "./dom.js";
import { airflowLink } from "./frame.js";
import { PATTERNS, STATES, patternName, shareText, stateBadge } from "./words.js";

const CHIPS = [["active", "Active", ["pending", "baking", "holding", "cleared"]],
  ...["holding", "promoted", "rolled_back"].map((each) => [each, STATES[each].text, [each]])];
let typing = 0;

export function listPath(query, pattern) {
  const asked = new URLSearchParams();
  for (const state of CHIPS.find(([name]) => name === query.get("state"))?.[2] ?? []) asked.append("state", state);
  for (const name of ["model", "q", "page"]) if (query.get(name)) asked.set(name, query.get(name));
  if (pattern ?? query.get("pattern")) asked.set("pattern", pattern ?? query.get("pattern"));
  return `api/rollouts?${asked}`;
}

const hash = (query, changes) => {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) value ? next.set(name, value) : next.delete(name);
  if (!("page" in changes)) next.delete("page");
  return `#/${next.size ? `?${next}` : ""}`;
};

export function list(content, query, tab, go) {
  const filtered = ["state", "model", "q", "pattern"].some((name) => query.get(name));
  const title = tab.pattern ? `Rollouts: ${patternName(tab.pattern)}` : "Rollouts";
  if (!content.total && !filtered) return [h("h1", {}, title), firstSteps(content, tab)];
  return [
    h("h1", {}, title),
    filters(content, query, tab, go),
    content.total ? table(content.rollouts) : h("p", { class: "empty" }, "No rollout fits these filters. ",
      h("a", { href: "#/" }, "Show all")),
    content.pages > 1 && pager(content, query),
  ];
}

function filters(content, query, tab, go) {
  const change = (name) => (event) => go(hash(query, { [name]: event.target.value.trim() }));
  const soon = (event) => {
    clearTimeout(typing);
    const value = event.target.value.trim();
    typing = setTimeout(() => go(hash(query, { q: value })), 350);
  };
  const all = Object.values(content.by_state).reduce((sum, n) => sum + n, 0);
  const chip = (name, text, n) => h("a", { class: "chip", href: hash(query, { state: name }),
    "aria-current": (query.get("state") ?? "") === name ? "true" : null }, text, " ", h("span", { class: "n" }, count(n)));
  return h("form", { class: "filters", role: "search", "aria-label": "Filter rollouts", onsubmit: (e) => e.preventDefault() },
    h("div", { class: "chips" }, chip("", "All", all), ...CHIPS.map(([name, text, states]) => chip(name, text,
      states.reduce((sum, state) => sum + (content.by_state[state] ?? 0), 0)))),
    h("label", {}, h("span", {}, "Search"), h("input", { id: "q", type: "search", placeholder: "id, model, version, person",
      value: query.get("q") ?? "", oninput: soon, autocomplete: "off" })),
    h("label", {}, h("span", {}, "Model"), h("input", { id: "model", list: "models", value: query.get("model") ?? "",
      placeholder: "all", onchange: change("model"), autocomplete: "off" }),
      h("datalist", { id: "models" }, ...content.models.map((model) => h("option", { value: model })))),
    !tab.pattern && h("label", {}, h("span", {}, "Pattern"), h("select", { id: "pattern", onchange: change("pattern") },
      h("option", { value: "" }, "all"), ...content.patterns.map((each) => h("option",
        { value: each, selected: query.get("pattern") === each }, patternName(each))))));
}

function table(rollouts) {
  const head = ["Model", "State", "Share", "In this state", "Next look", "Pattern", "Started by"];
  return h("table", { class: "list" },
    h("caption", { class: "hidden" }, "Rollouts, those that wait for a person first"),
    h("thead", {}, h("tr", {}, ...head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rollouts.map(row)));
}

function row(rollout) {
  const { model, champion, challenger, active, state } = rollout;
  const looks = active && state !== "pending" && state !== "cleared" && rollout.opened_at && !rollout.offline;
  return h("tr", { "data-key": rollout.id, class: active ? null : "ended" },
    h("th", { scope: "row" }, h("a", { href: `#/rollout/${encodeURIComponent(rollout.id)}` }, model),
      h("span", { class: "versions" }, `version ${champion} → ${challenger}`)),
    h("td", { "data-label": "State" }, stateBadge(state),
      state === "holding" || state === "rolled_back" ? h("span", { class: "why", title: rollout.reason }, rollout.reason) : null),
    h("td", { "data-label": "Share" }, share(rollout)),
    h("td", { "data-label": "In this state", class: "num" }, active ? ticking("since", { at: rollout.moved_at })
      : time(rollout.ended_at ?? rollout.moved_at)),
    h("td", { "data-label": "Next look", class: "num" }, looks ? ticking("look",
      { at: rollout.opened_at, every: rollout.look_seconds, grace: rollout.grace_seconds }) : "–"),
    h("td", { "data-label": "Pattern" }, patternName(rollout.pattern)),
    h("td", { "data-label": "Started by" }, h("span", { class: "who", title: rollout.created_by }, rollout.created_by), " ",
      h("span", { class: "quiet" }, time(rollout.created_at))));
}

function share(rollout) {
  const { stage, stages, active } = rollout;
  const steps = Array.from({ length: stages }, (_, i) => h("i",
    { class: i + 1 < stage || rollout.state === "promoted" ? "done" : i + 1 === stage ? "here" : null }));
  return [h("b", {}, active ? shareText(rollout) : `${digits(rollout.share)} %`),
    h("span", { class: "steps", "aria-hidden": "true" }, ...steps),
    h("span", { class: "quiet" }, stage ? `stage ${stage} of ${stages}` : `${stages} stages`)];
}

function pager(content, query) {
  const link = (page, text) => (page >= 1 && page <= content.pages ? h("a", { href: hash(query, { page: String(page) }) }, text)
    : h("span", { class: "quiet" }, text));
  return h("nav", { class: "pager", "aria-label": "Pages" }, link(content.page - 1, "← Newer"),
    h("span", {}, `page ${content.page} of ${content.pages}, ${count(content.total)} rollouts`), link(content.page + 1, "Older →"));
}

function firstSteps(content, tab) {
  const patterns = tab.pattern ? [tab.pattern] : content.patterns;
  const code = (text) => h("code", {}, text);
  if (!patterns.length) {
    return h("p", { class: "empty" }, "You may see none of the DAGs canary, ab_test, blue_green, shadow and gradual, so there is "
      + "nothing to show. Ask whoever manages Airflow for read access to one of them.");
  }
  return h("section", { class: "card first" }, h("h2", {}, "No rollout yet: how to start the first one"),
    h("ol", {},
      h("li", {}, "Register the model in MLflow, and point the alias ", code("champion"), " at the version that serves."),
      h("li", {}, "Run the gateway with ", code("MODEL_ROLLOUTS_MODELS"), " naming the model, and send it traffic. ",
        code("rollouts doctor"), " says what is still missing."),
      h("li", {}, "Register the new version, then start its rollout: ", ...patterns.flatMap((pattern, i) => [i ? ", " : "",
        airflowLink(`dags/${pattern.replace("-", "_")}`, PATTERNS[pattern])]),
      ". Press Trigger there; the form explains itself. On the command line: ", code("rollouts start"), "."),
      h("li", {}, "It appears here within seconds of its task ", code("preflight"), ".")),
    h("p", { class: "quiet" }, "Canary is the one to begin with: 1, 5, 25, 50, 100 % of the units, each step earned by proof."));
}
