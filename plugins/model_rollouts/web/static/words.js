// The page's words and marks, the same everywhere. A state is never told by colour alone.

import { h } from "./dom.js";

export const STATES = {
  pending: { text: "starting", mark: "◌", tone: "wait", help: "holds the lease; no traffic has moved" },
  baking: { text: "running", mark: "▶", tone: "run", help: "a stage is open and watched" },
  holding: { text: "held", mark: "‖", tone: "warn", help: "keeps its share; waits for a person" },
  cleared: { text: "passed", mark: "✓", tone: "good", help: "the stage passed; the next step follows" },
  promoted: { text: "promoted", mark: "★", tone: "good", help: "the challenger is the champion" },
  rolled_back: { text: "rolled back", mark: "↩", tone: "bad", help: "the champion has all the traffic" },
};
const VERDICTS = {
  pass: { text: "passed", mark: "✓", tone: "good" },
  fail: { text: "harm", mark: "✗", tone: "bad" },
  wait: { text: "not proven yet", mark: "…", tone: "wait" },
  inconclusive: { text: "inconclusive", mark: "?", tone: "warn" },
};
export const PATTERNS = {
  canary: "canary", "ab-test": "A/B test", "blue-green": "blue-green", shadow: "shadow", gradual: "gradual",
};
export const ROLES = {
  guardrail: "guardrail: harm rolls back, and no harm must be proven",
  tripwire: "tripwire: harm rolls back",
  objective: "objective: must be proven",
  signal: "signal: can only hold",
  muted: "shown only",
};

const badge = ({ text, mark, tone, help }) => h("span", { class: `badge ${tone}`, title: help },
  h("span", { class: "mark", "aria-hidden": "true" }, mark), " ", text);

export const stateBadge = (state) => badge(STATES[state] ?? { text: state, mark: "•", tone: "wait" });

export function verdictBadge(verdict, role) {
  if (!verdict) return badge({ text: "being added up", mark: "…", tone: "wait" });
  if (verdict === "pass" && (role === "signal" || role === "muted" || role === "tripwire")) {
    return badge({ text: "no harm seen", mark: "✓", tone: "good" });
  }
  if (verdict === "wait" && (role === "signal" || role === "muted")) return badge({ text: "nothing seen yet", mark: "…", tone: "wait" });
  return badge(VERDICTS[verdict]);
}
export const patternName = (pattern) => PATTERNS[pattern] ?? pattern;

export function shareText({ share, mirror_percent: mirror, offline }) {
  if (offline) return "offline";
  if (!share && mirror) return `0 %, ${mirror} % mirrored`;
  return `${share} %`;
}
