// One rollout: what share the challenger has, what the evidence says, what happens next, and how to stop it.

import { ask } from "./actions.js";
import { chart, shown } from "./chart.js";
import { count, digits, h, moment, percent, seconds, ticking, time } from "./dom.js";
import { airflowLink, outsideLink } from "./frame.js";
import { reports } from "./reports.js";
import { ROLES, patternName, shareText, stateBadge, verdictBadge } from "./words.js";

const LATER = { passed: "✓", open: "▶", held: "‖", "rolled back": "↩", ahead: "○", never: "–" };
const DEEDS = {
  approve: { text: "Approve", tone: "main" }, roll_back: { text: "Roll back", tone: "danger" }, hold: { text: "Hold" },
  resume: { text: "Resume" }, expand: { text: "Expand now" }, cut_over: { text: "Cut over now" },
};

export function detail(content, page) {
  return [
    !page.tab.run && h("nav", { class: "crumbs", "aria-label": "Back" }, h("a", { href: "#/" }, "← All rollouts")),
    head(content, page),
    stages(content),
    gates(content),
    arms(content),
    h("div", { class: "columns" }, timeline(content), h("div", {}, reports(content), facts(content))),
  ];
}

function head(content, page) {
  const { model, champion, challenger, state, traffic } = content;
  const share = traffic.shares[challenger] ?? 0; // of a past rollout too: others may have moved it since
  const setting = content.stages[Math.max(content.stage, 0)];
  return h("header", { class: `head ${state}` },
    h("div", { class: "title" }, h("h1", {}, model), h("p", {}, `version ${champion} → ${challenger} · ${patternName(content.pattern)}`),
      stateBadge(state)),
    h("div", { class: "share", role: "img", "aria-label": `the challenger, version ${challenger}, has ${share} % of the traffic` },
      h("b", {}, `${digits(share)} %`),
      h("span", {}, content.active ? `version ${challenger} has` : `version ${challenger} has now`),
      content.active && setting.mirror_percent && !share ? h("small", {}, `${setting.mirror_percent} % mirrored`) : null,
      h("meter", { min: 0, max: 100, value: share, "aria-hidden": "true" })),
    sentence(content),
    buttons(content, page));
}

function sentence(content) {
  const { verdict, state, evidence } = content;
  const lines = []; // the first one is read in five seconds
  if (content.active) {
    const [first, ...more] = content.waits_for.split(/; (?=challenger's |champion |underpowered)/);
    lines.push(h("p", { class: "lead" }, h("b", {}, leads(content)), first), more.length
      ? h("ul", { class: "more" }, ...more.map((each) => h("li", {}, each))) : null);
    lines.push(h("p", { class: "quiet" }, ...next(content)));
  } else {
    lines.push(h("p", { class: "lead" }, h("b", {}, state === "promoted" ? "Promoted: " : "Rolled back: "), content.reason));
    lines.push(h("p", { class: "quiet" }, "Ended ", time(content.ended_at), ". ", keptBack(content)
      ? `Version ${content.champion} is kept loaded to go back to.` : ""));
  }
  if (verdict?.blind) lines.push(h("p", { class: "warn-text" }, "⚠ No evidence comes in: an arm is silent, or the log can't be read. Nothing passes meanwhile."));
  if (evidence.failure) lines.push(h("p", { class: "warn-text" }, `⚠ The looks can't be read (${evidence.failure}). Charts show what was last known, and it is tried again. See that the rollout store runs: \`rollouts doctor\` and the API server's log tell more.`));
  else if (!evidence.complete) {
    lines.push(h("p", { class: "quiet", role: "status" }, `Adding up looks: ${count(evidence.looks)} of ${count(evidence.of)} `,
      h("progress", { max: Math.max(evidence.of, 1), value: evidence.looks, "aria-label": "looks added up" })));
  }
  return h("div", { class: "sentence" }, ...lines);
}

// Only while the version that it promoted serves, and the one that it replaced is still there.
const keptBack = ({ state, champion, challenger, traffic }) => state === "promoted" && traffic.champion === challenger
  && traffic.previous === champion;

// What a verdict of harm or of no proof is not: waiting.
function leads({ state, verdict, question }) {
  if (state !== "baking" || question) return "Waits for ";
  if (!verdict || verdict.verdict === "wait") return "Waits: ";
  return { fail: "Harm: ", pass: "Passes: ", inconclusive: "Inconclusive: " }[verdict.verdict];
}

function next(content) {
  const setting = content.stages[content.stage];
  if (!setting || content.state === "pending") return ["Started ", time(content.created_at), ` by ${content.created_by}`];
  const found = [];
  if (["baking", "holding"].includes(content.state) && !setting.offline) {
    found.push("Next look ", ticking("look", { at: content.opened_at, every: content.look_seconds, grace: content.grace_seconds }));
  }
  if (content.state === "baking") {
    const end = (length) => new Date(Date.parse(content.judged_from) + length * 1000).toISOString();
    found.push(" · bake time ", ticking("until", { at: end(setting.bake_seconds), over: "over" }), " · deadline ",
      ticking("until", { at: end(setting.deadline_seconds), over: "reached" }));
  }
  return found.length ? found : ["Since ", time(content.events.at(-1)?.at ?? content.created_at)];
}

function buttons(content, page) {
  if (!content.may_act) {
    return h("p", { class: "quiet actions" }, `${content.user} may look at this rollout. Changing it takes the right to trigger its DAG.`);
  }
  const offers = content.offers.filter((offer) => !offer.refusal);
  if (content.question) offers.unshift({ deed: "approve", change: `answers “${content.question.subject}” with yes; the run goes on with its checks` });
  if (!offers.length) return h("p", { class: "quiet actions" }, "Nothing is left to do to this rollout.");
  const order = ["roll_back", "hold", "resume", "approve", "expand", "cut_over"];
  offers.sort((a, b) => order.indexOf(a.deed) - order.indexOf(b.deed));
  return h("div", { class: "actions", role: "group", "aria-label": "Actions" }, ...offers.map((offer) => h("button", {
    id: `do-${offer.deed}`, class: DEEDS[offer.deed].tone, onclick: () => ask(content, offer, DEEDS[offer.deed], page),
  }, DEEDS[offer.deed].text)));
}

function stages(content) {
  return h("section", { "aria-labelledby": "stages" }, h("h2", { id: "stages" }, "Stages"), h("ol", { class: "track" },
    ...content.stages.map((stage, i) => h("li", { class: stage.status.replace(" ", "-"), "aria-current": i === content.stage && content.active ? "step" : null },
      h("span", { class: "dot", "aria-hidden": "true" }, LATER[stage.status]),
      h("b", {}, shareText(stage)),
      h("span", { class: "status" }, stage.status === "ahead" ? (stage.approval ? "ahead, asks a person" : "ahead") : stage.status === "never" ? "not reached" : stage.status),
      ...during(content, stage)))));
}

function during(content, stage) {
  const lines = [];
  if (stage.status === "open") {
    const spent = (Date.now() - Date.parse(content.judged_from)) / 1000;
    const bar = (label, max) => h("label", { class: "bar" }, h("span", {}, label), h("progress",
      { max, value: Math.min(max, spent), "data-from": content.judged_from }));
    lines.push(bar(`bake time ${seconds(stage.bake_seconds)}`, stage.bake_seconds), bar(`deadline ${seconds(stage.deadline_seconds)}`, stage.deadline_seconds));
  } else if (stage.opened_at) {
    lines.push(h("span", { class: "quiet" }, stage.left_at ? seconds((Date.parse(stage.left_at) - Date.parse(stage.opened_at)) / 1000) : ticking("since", { at: stage.opened_at })));
  }
  if (stage.run) lines.push(airflowLink(`dags/${encodeURIComponent(stage.run.dag_id)}/runs/${encodeURIComponent(stage.run.run_id)}`, "DAG run"));
  return lines;
}

function gates(content) {
  const columns = innerWidth > 1000 ? 2 : 1;
  const outside = innerWidth < 500 ? 46 : 76;
  const width = Math.round(Math.max(220, Math.min(760, (Math.min(innerWidth, 1500) - outside - (columns - 1) * 50) / columns)));
  const worst = { fail: 0, inconclusive: 1, wait: 2, pass: 3 };
  const sorted = [...content.gates].sort((a, b) => (worst[a.verdict] ?? 2) - (worst[b.verdict] ?? 2));
  return h("section", { "aria-labelledby": "gates" }, h("h2", { id: "gates" }, "Evidence"),
    h("p", { class: "legend" }, h("span", {}, h("i", { class: "key estimate" }), "estimate"), h("span", {}, h("i", { class: "key band" }), "what is proven, at any time"),
      h("span", {}, h("i", { class: "key harm" }), "harm beyond this margin stops it"), h("span", {}, h("i", { class: "key pass" }), "must be proven to be on the good side"),
      h("span", {}, "✓ passed ‖ held ▶ resumed ↩ rolled back ★ cut over")),
    h("div", { class: "gates" }, ...sorted.map((gate) => card(gate, content, width))));
}

function card(gate, content, width) {
  const done = gate.needed && gate.stage_n !== undefined ? Math.min(1, gate.stage_n / gate.needed) : null;
  return h("article", { class: "card gate", "data-key": gate.metric, "aria-label": gate.name },
    h("div", { class: "cardhead" }, h("h3", {}, gate.name), verdictBadge(gate.verdict, gate.role)),
    h("p", { class: "reason" }, gate.reason ?? "Its looks are being added up."),
    gate.points.length ? chart(gate, content, width) : h("p", { class: "quiet nochart" }, content.stage < 0 ? "Evidence begins with the first stage." : "No look of it is closed yet."),
    h("dl", { class: "facts" },
      fact("role", gate.role, ROLES[gate.role]),
      fact("estimate", shown(gate, gate.effect), gate.scale === "odds" ? "the challenger's odds of a bad outcome over the champion's" : null),
      gate.harm !== undefined && fact("evidence of harm", share(gate.harm), "100 % is proof"),
      gate.proof !== undefined && ["guardrail", "objective"].includes(gate.role) && fact("evidence of no harm", share(gate.proof), "100 % is proof"),
      gate.stage_n !== undefined && fact("judged in this stage", gate.needed ? `${count(gate.stage_n)} of about ${count(Math.ceil(gate.needed))}` : count(gate.stage_n),
        gate.needed ? `a challenger as good as the champion needs about that many; ${Math.round(100 * done)} % are there` : null),
      gate.coverage !== undefined && gate.coverage !== null && fact("arrived", `${percent(gate.coverage, 1)}, needed ${percent(gate.coverage_needed, 1)}`, "labels, or pairs, of those that are due"),
      gate.design_effect > 1 && fact("design effect", digits(gate.design_effect), "requests of one unit resemble each other; so many count as one")));
}

const share = (value) => (value === null ? "beyond measure" : value >= 1 ? "proven" : `${Math.round(100 * Math.max(value, 0))} %`);
const fact = (name, value, help) => h("div", { title: help }, h("dt", {}, name), h("dd", {}, value));

function arms(content) {
  const seen = content.stages.map((stage, i) => ({ ...stage, i })).filter((stage) => stage.arms);
  if (!seen.length) return null;
  const stage = seen.at(-1);
  const { champion, challenger } = stage.arms;
  const rows = [
    ["requests", (arm) => count(arm.requests)],
    ["errors", (arm) => `${count(arm.errors)} (${percent(arm.errors, arm.requests)})`],
    ["labels of those due", (arm) => (arm.due ? `${count(arm.labelled)} of ${count(arm.due)} (${percent(arm.labelled, arm.due)})` : "none due")],
    ["wrong, of the labelled", (arm) => (arm.labelled ? `${count(arm.wrong)} (${percent(arm.wrong, arm.labelled)})` : "–")],
    ["latency p50 / p95 / p99", (arm) => ["p50", "p95", "p99"].map((p) => (arm.latency_ms[p] === null ? "–" : digits(arm.latency_ms[p]))).join(" / ") + " ms"],
  ];
  return h("section", { "aria-labelledby": "arms" }, h("h2", { id: "arms" }, `Counts of stage ${stage.i + 1}, at ${shareText(stage)}`),
    h("div", { class: "scroll card", tabindex: 0, role: "region", "aria-label": "Counts" }, h("table", { class: "counts" },
      h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, `champion (${content.champion})`), h("th", { scope: "col" }, `challenger (${content.challenger})`))),
      h("tbody", {}, ...rows.map(([name, told]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, told(champion)), h("td", {}, told(challenger))))))),
    stage.power ? h("p", { class: "quiet" }, `Worked out at the start: ${stage.power}.`) : null);
}

const KINDS = {
  adopted: "adopted", started: "started", stage_opened: "stage opened", cleared: "passed", held: "held", resumed: "resumed",
  cut_over: "promoted", rolled_back: "rolled back", taken_up: "taken up", acknowledged: "team stands by", answered: "answered",
  checked: "checked", drill_began: "drill began", drill_ended: "drill ended", drilled: "way back rehearsed",
  data_rollback_began: "data is being undone", data_rolled_back: "data undone", data_rollback_failed: "data not undone",
  previous_released: "old champion released", repaired: "repaired", reported: "reported",
};
const BIG = new Set(["started", "stage_opened", "cleared", "held", "resumed", "cut_over", "rolled_back", "answered"]);

function timeline(content) {
  const events = content.events.map((event, i) => ({ ...event, i })).reverse();
  return h("section", { "aria-labelledby": "history" }, h("h2", { id: "history" }, "What happened"),
    h("ol", { class: "timeline" }, ...events.map((event) => h("li", { class: `${event.kind} ${BIG.has(event.kind) ? "" : "small"}`, "data-key": `e${event.i}` },
      h("div", { class: "when" }, time(event.at)),
      h("div", {}, h("b", {}, KINDS[event.kind] ?? event.kind), moved(event, content), h("p", {}, event.reason), h("p", { class: "who" }, "by ", event.actor,
        event.evidence.run ? [" · ", airflowLink(`dags/${encodeURIComponent(event.evidence.run.dag_id)}/runs/${encodeURIComponent(event.evidence.run.run_id)}`, "DAG run")] : null),
      checks(event))))),
    content.events_left_out ? h("p", { class: "quiet" }, `${content.events_left_out} earlier events: \`rollouts history ${content.model}\`.`) : null);
}

function moved(event, content) {
  const [before, after] = [event.before[content.challenger] ?? 0, event.after[content.challenger] ?? 0];
  return before === after ? null : h("span", { class: "moved" }, ` ${digits(before)} % → ${digits(after)} %`);
}

function checks(event) {
  const list = event.evidence.checks;
  if (!list?.length) return null;
  return h("details", {}, h("summary", {}, `${list.filter((check) => check.ok).length} of ${list.length} checks held`),
    h("ul", { class: "checks" }, ...list.map((check) => h("li", {}, check.ok ? "✓ " : "✗ ", h("b", {}, check.name), ": ", check.detail))));
}

function facts(content) {
  const version = (number) => (content.mlflow ? outsideLink(`${content.mlflow}/#/models/${encodeURIComponent(content.model)}/versions/${encodeURIComponent(number)}`, `version ${number}`) : `version ${number}`);
  return h("section", { "aria-labelledby": "about" }, h("h2", { id: "about" }, "About"), h("dl", { class: "card about" },
    fact("rollout", h("code", {}, content.id)),
    fact("champion when it began", version(content.champion)),
    fact("challenger", version(content.challenger)),
    fact("started", [moment(content.created_at), " by ", content.created_by]),
    fact("a look is", seconds(content.look_seconds)),
    fact("labels count for", seconds(content.label_maturity_seconds)),
    fact("healthy challengers rolled back", `at most ${percent(content.alpha, 1)}`),
    fact("next stage opens", content.advance === "on_schedule" ? "with the schedule" : "at once")));
}
