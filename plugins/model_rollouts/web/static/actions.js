// Doing something to a rollout: says what it changes, asks why, and is refused when somebody else was faster.

import { post } from "./api.js";
import { h, moment, show } from "./dom.js";

const QUICK = {
  roll_back: ["error rate", "latency", "wrong predictions", "asked by the team"],
  hold: ["want a closer look", "incident elsewhere", "release freeze"],
  resume: ["looked at it, it is fine"],
  approve: ["looked at the evidence"],
  expand: ["risk accepted"],
  cut_over: ["risk accepted"],
};

let dialog = null;

export function ask(content, offer, deed, page) {
  dialog?.remove();
  let revision = content.revision;
  let busy = false;
  const reason = h("textarea", { id: "reason", rows: 2, maxlength: 2000, required: true, placeholder: "Why? It goes on record.",
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    } });
  const problem = h("div", { class: "problem", role: "alert" });
  const confirm = h("button", { type: "submit", class: deed.tone === "danger" ? "danger" : "main" }, deed.text);
  const quick = (QUICK[offer.deed] ?? []).map((text) => h("button", { type: "button", class: "chip", onclick: () => {
    reason.value = reason.value.trim() ? `${reason.value.trim()}; ${text}` : text;
    confirm.focus();
  } }, text));
  const form = h("form", { onsubmit: submit },
    h("h2", { id: "asks" }, `${deed.text}: ${content.model}`),
    h("p", { class: "change" }, sentence(offer.change)),
    shares(content, offer.deed),
    h("label", { for: "reason" }, "Reason"), reason,
    h("div", { class: "chips" }, ...quick), problem,
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), confirm));
  dialog = h("dialog", { "aria-labelledby": "asks" }, form);
  dialog.addEventListener("close", () => {
    dialog?.remove();
    document.getElementById(`do-${offer.deed}`)?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    if (!reason.value.trim()) {
      show(problem, h("p", {}, "Say why: it goes on record."));
      reason.focus();
      return;
    }
    busy = true;
    confirm.disabled = true;
    confirm.textContent = "…";
    try {
      const done = await post(`api/rollouts/${encodeURIComponent(content.id)}/${offer.deed}`, { reason: reason.value.trim(), revision });
      dialog.close();
      page.notify("good", `${deed.text}: done. ${done.follows.map(sentence).join(" ")}`);
      for (const warning of done.warnings) page.notify("bad", sentence(warning));
      page.refresh();
    } catch (error) {
      const since = error.since ?? [];
      show(problem, h("p", {}, error.message), since.length ? h("ul", {}, ...since.map((each) => h("li", {},
        `${moment(each.at)} ${each.kind.replaceAll("_", " ")} by ${each.actor}: ${each.reason}`))) : null,
      error.code === "stale" ? h("p", {}, "Nothing was changed. Close this, look again, and decide again.") : null);
      busy = false;
      confirm.disabled = error.code === "stale";
      confirm.textContent = deed.text;
      page.refresh();
    }
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

// Who answers how much, before and after.
function shares(content, deed) {
  const now = content.traffic.share;
  const following = content.stages[Math.min(content.stage + 1, content.stages.length - 1)].share;
  const after = { roll_back: 0, hold: now, resume: now, approve: null, expand: following, cut_over: 100 }[deed];
  const before = content.state === "promoted" ? 100 : now;
  if (after === null || after === before) return null;
  const bar = (label, share) => h("div", { class: "before" }, h("span", {}, label), h("meter", { min: 0, max: 100, value: share, "aria-label": `${label}: ${share} %` }),
    h("b", {}, `${share} %`));
  return h("div", { class: "shares" }, h("p", {}, `Share of version ${content.challenger}`), bar("now", before), bar("then", after));
}
