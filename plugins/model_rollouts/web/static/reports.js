// Reports of the stages, from MLflow. They are asked for apart: MLflow may be slow or away, and nothing waits for it.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { outsideLink } from "./frame.js";

const AGAIN = 20_000;
let kept = { id: null, at: 0, body: null, failure: null };

const NAMES = {
  "comparison.html": "Comparison", "drift.html": "Drift report", "decision.json": "Decision, with its evidence",
  "data_checks_predictions.html": "Data checks of predictions", "data_checks_outcomes.html": "Data checks of outcomes",
  "pairs.html": "Both answers, pair by pair", "readout.html": "A/B readout",
};

function nameOf(path) {
  const docs = /^data_docs_(.+)\/index\.html$/.exec(path);
  return NAMES[path] ?? (docs ? `Data Docs of ${docs[1]}` : path);
}

async function load(id) {
  kept.at = Date.now();
  try {
    const { content } = await get(`api/rollouts/${encodeURIComponent(id)}/reports`);
    kept = { ...kept, body: content, failure: null };
  } catch (error) {
    kept = { ...kept, failure: error };
  }
  if (kept.body?.waiting) setTimeout(() => kept.id === id && !document.hidden && load(id), 1500);
  const root = document.getElementById("reports-list");
  if (root && kept.id === id) show(root, ...inside(id));
}

export function reports(content) {
  if (kept.id !== content.id) kept = { id: content.id, at: 0, body: null, failure: null };
  if (Date.now() - kept.at > AGAIN) load(content.id);
  return h("section", { "aria-labelledby": "reports" }, h("h2", { id: "reports" }, "Reports"),
    h("div", { id: "reports-list", class: "card" }, ...inside(content.id)));
}

function inside(id) {
  const { body, failure } = kept;
  if (failure) return [h("p", { class: "warn-text" }, failure.message)];
  if (!body || body.waiting) return [h("p", { class: "quiet" }, "Asking MLflow …")];
  if (!body.stages.length) return [h("p", { class: "quiet" }, "MLflow has no run of this rollout yet; its first stage makes one.")];
  return body.stages.map((stage) => {
    const link = (file) => outsideLink(new URL(`api/rollouts/${encodeURIComponent(id)}/reports/${stage.run_id}/${
      file.path.split("/").map(encodeURIComponent).join("/")}`, location.href).href, nameOf(file.path));
    const pages = stage.files.filter((file) => file.path.endsWith(".html") || NAMES[file.path]);
    const data = stage.files.filter((file) => !pages.includes(file));
    return h("div", { class: "reports", "data-key": `s${stage.stage}` },
      h("h3", {}, `Stage ${stage.stage + 1}`, stage.share === null ? "" : `, ${stage.share} %`),
      h("ul", {}, ...pages.map((file) => h("li", {}, link(file))),
        data.length ? h("li", { class: "quiet" }, "as data: ", ...data.flatMap((file, i) => [i ? ", " : "", link(file)])) : null,
        stage.url ? h("li", {}, outsideLink(stage.url, "MLflow run")) : null),
      stage.reason ? h("p", { class: "quiet" }, stage.reason) : null);
  });
}
