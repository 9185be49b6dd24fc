// Small helpers: elements from values (never from markup), and a page that changes without losing focus or scroll.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const HANDLERS = ["onclick", "oninput", "onchange", "onsubmit", "onkeydown", "onpointermove", "onpointerleave", "onauxclick", "onblur", "ontoggle"];

function same(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.id === other.id
    && (one.dataset?.key ?? "") === (other.dataset?.key ?? "");
}

// Make `old` look like `fresh`, keeping what is alike: focus, open details and scroll positions stay.
export function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name === "open" && old.nodeName === "DETAILS") continue;
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const name of HANDLERS) if (old[name] !== fresh[name]) old[name] = fresh[name];
  if (old.dataset?.live !== undefined) {
    if (old.nodeName === "DETAILS" && old.open) old.ontoggle?.({ target: old }); // what is open shows the new values
    return;
  }
  const kept = [...old.childNodes];
  const wanted = [...fresh.childNodes];
  let at = 0;
  for (const child of wanted) {
    let match = kept.findIndex((each, i) => i >= at && same(each, child));
    if (match > at && !(child.id || child.dataset?.key)) match = same(kept[at], child) ? at : match;
    if (match === -1) {
      old.insertBefore(child, kept[at] ?? null);
      continue;
    }
    while (at < match) kept[at++].remove();
    morph(kept[at++], child);
  }
  while (at < kept.length) kept[at++].remove();
}

export function show(root, ...children) {
  const fresh = root.cloneNode(false);
  fresh.append(...children.flat(Infinity).filter((each) => each));
  morph(root, fresh);
}

// --- words and numbers

export function seconds(value) {
  const s = Math.max(0, Math.round(value));
  if (s < 100) return `${s} s`;
  if (s < 100 * 60) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return parts(Math.round(s / 60), 60, "h", "min");
  return parts(Math.round(s / 3600), 24, "d", "h");
}

const parts = (whole, size, big, small) => `${Math.floor(whole / size)} ${big}${whole % size ? ` ${whole % size} ${small}` : ""}`;

export const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
export const percent = (part, of) => (of ? `${digits((100 * part) / of)} %` : "–");

export function digits(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toLocaleString("en", { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3 });
}

export function moment(text) {
  const at = new Date(text);
  const day = at.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
  return at.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export const time = (text, shown) => h("time", { datetime: text, title: new Date(text).toString() }, shown ?? moment(text));

// Times that move by themselves: kind, moment and more are read again each second.
const TICKING = {
  since: ({ at }) => seconds((Date.now() - Date.parse(at)) / 1000),
  until: ({ at, over }) => {
    const left = (Date.parse(at) - Date.now()) / 1000;
    return left > 0 ? seconds(left) : over ?? "now";
  },
  // the next end of a look, with the log's own delay after it
  look: ({ at, every, grace }) => {
    const passed = (Date.now() - Date.parse(at)) / 1000 - grace;
    return `in ${seconds(every - (((passed % every) + every) % every))}`;
  },
};

export function ticking(kind, values) {
  const data = Object.fromEntries(Object.entries(values).map(([name, value]) => [`data-${name}`, value]));
  return h("span", { class: "ticking", "data-kind": kind, ...data }, TICKING[kind](values));
}

export function tick(root) {
  for (const element of root.querySelectorAll("[data-kind]")) {
    const { kind, at, over, every, grace } = element.dataset;
    const text = TICKING[kind]({ at, over, every: Number(every), grace: Number(grace) });
    if (element.textContent !== text) element.textContent = text;
  }
  for (const bar of root.querySelectorAll("progress[data-from]")) {
    bar.value = Math.min(bar.max, (Date.now() - Date.parse(bar.dataset.from)) / 1000);
  }
}
