// The page inside Airflow's frame: it follows dark and light, keeps the address bar right, and opens Airflow's pages.

import { h } from "./dom.js";

const HERE = "/model-rollouts/page/";
export const AIRFLOW = `${location.pathname.slice(0, location.pathname.indexOf(HERE))}/`;

function outer() {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null; // the frame is another site's, and the browser keeps them apart
  }
}

const airflow = outer();

export function followTheme() {
  const own = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theirs = airflow?.document.documentElement;
    const dark = theirs?.classList.contains("dark") || (!theirs?.classList.contains("light") && system.matches);
    own.dataset.theme = dark ? "dark" : "light";
    if (airflow) {
      const ground = airflow.getComputedStyle(airflow.document.body).backgroundColor;
      if (ground && !/^rgba\(.*, 0\)$/.test(ground)) own.style.setProperty("--ground", ground);
    }
  };
  apply();
  system.addEventListener("change", apply);
  if (airflow) {
    const changes = { attributes: true, attributeFilter: ["class", "style", "data-theme"] };
    new MutationObserver(() => requestAnimationFrame(apply)).observe(airflow.document.documentElement, changes);
  }
}

// What is shown is in the address bar, so that it can be sent to somebody.
export function keepAddress() {
  if (!airflow) return;
  const base = `${AIRFLOW}plugin/rollouts`;
  if (!airflow.location.pathname.startsWith(base)) return;
  const inside = location.pathname.slice(AIRFLOW.length - 1);
  airflow.history.replaceState(airflow.history.state, "", `${base}${inside}${location.search}${location.hash}`);
}

// A frame without the right to navigate its parent or to open windows lets the parent's own document do it.
function open(event, href, blank) {
  if (!airflow) return;
  event.preventDefault();
  const link = airflow.document.createElement("a");
  link.href = href;
  if (blank || event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) link.target = "_blank";
  link.rel = "noopener";
  airflow.document.body.append(link);
  link.click();
  link.remove();
}

export function airflowLink(path, ...children) {
  const href = new URL(AIRFLOW + path, location.origin).href;
  return h("a", { href, onclick: (e) => open(e, href, false), onauxclick: (e) => open(e, href, true) }, ...children);
}

export function outsideLink(href, ...children) {
  const go = (event) => open(event, href, true);
  return h("a", { href, target: "_blank", rel: "noopener noreferrer", onclick: go, onauxclick: go }, ...children,
    h("span", { class: "away", "aria-hidden": "true" }, " ↗"));
}

export function reloadAirflow() {
  (airflow ?? window).location.reload();
}
