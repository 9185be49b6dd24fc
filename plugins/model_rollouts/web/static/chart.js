// One gate over the looks: the estimate, what is proven at any time, the margins, and where something was decided.

import { digits, h, morph, s } from "./dom.js";

const HEIGHT = 190;
const TOP = 16;
const BOTTOM = 22;
const LEFT = 44;
const RIGHT = 8;

const SCALES = {
  odds: { log: true, show: (v) => `${digits(v)}×`, least: 1 / 25, most: 300 },
  share: { log: false, show: (v) => `${digits(100 * v)} %`, least: 0, most: 1 },
  lift: { log: false, show: (v) => `${v > 0 ? "+" : ""}${digits(100 * v)} %`, least: -1, most: 10 },
  ratio: { log: true, show: (v) => `${digits(v)}×`, least: 0.05, most: 20 },
};

export function shown(gate, value) {
  return value === null || value === undefined ? "–" : SCALES[gate.scale].show(value);
}

const read = ([position, stage, look, effect, low, high, harm, proof]) => ({ position, stage, look, effect, low, high, harm, proof });

// What fits the picture: all margins and estimates, and the bounds once they are near them.
function domain(gate, points, scale) {
  const to = scale.log ? Math.log : (v) => v;
  const must = [gate.reference, ...gate.lines.flatMap((line) => [line.harm, line.pass])].filter((v) => v !== null && v !== undefined);
  const estimates = points.map((p) => p.effect).filter((v) => v !== null && v >= scale.least && v <= scale.most);
  const settled = estimates.slice(Math.floor(estimates.length / 4));
  const last = points.at(-1) ?? {};
  let values = [...must, ...settled, ...[last.low, last.high].filter((v) => v !== null && v !== undefined)].map(to);
  if (!values.length) values = [to(scale.log ? 0.5 : 0), to(scale.log ? 2 : 1)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (scale.log) {
    low = Math.max(low, Math.log(1 / 20));
    high = Math.min(high, Math.log(60));
  }
  const room = Math.max((high - low) * 0.18, scale.log ? 0.15 : gate.scale === "share" ? 0.004 : 0.02);
  low -= room;
  high += room;
  if (gate.scale === "share") [low, high] = [Math.max(low, -0.01), Math.min(high, 1.005)];
  return { low, high, to };
}

function ticks({ low, high, to }, scale) {
  if (scale.log) {
    const nice = [0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.25, 1.5, 2, 3, 5, 10, 20, 50];
    const inside = nice.filter((v) => to(v) > low && to(v) < high);
    const every = Math.ceil(inside.length / 5);
    const one = Math.max(inside.indexOf(1), 0);
    return inside.filter((_, i) => (i - one) % every === 0);
  }
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const size = [1, 2, 5, 10].map((k) => k * step).find((each) => (high - low) / each <= 5) ?? step;
  const found = [];
  for (let v = Math.ceil(low / size) * size; v < high; v += size) found.push(Number(v.toPrecision(6)));
  return found;
}

export function chart(gate, content, width) {
  const points = gate.points.map(read);
  const scale = SCALES[gate.scale];
  const range = domain(gate, points, scale);
  const last = Math.max(points.at(-1)?.position ?? 1, 2);
  const x = (position) => LEFT + ((width - LEFT - RIGHT) * (position - 1)) / (last - 1);
  const clamp = (v) => Math.min(HEIGHT - BOTTOM, Math.max(TOP, v));
  const y = (value) => clamp(HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * (range.to(value) - range.low)) / (range.high - range.low));
  const marks = [];

  for (const value of ticks(range, scale)) {
    marks.push(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" }, scale.show(value)));
  }
  marks.push(...bands(points, x, y, gate.scale === "odds"), ...stageMarks(gate, content, points, x, y, last, width));
  const line = points.filter((p) => p.effect !== null);
  if (gate.reference !== null) {
    marks.push(s("line", { class: "reference", x1: LEFT, x2: width - RIGHT, y1: y(gate.reference), y2: y(gate.reference) }));
  }
  marks.push(s("path", { class: "estimate", d: line.map((p, i) => `${i ? "L" : "M"}${x(p.position).toFixed(1)} ${y(p.effect).toFixed(1)}`).join("") }));
  if (!line.length && gate.scale === "odds") {
    marks.push(s("text", { class: "tick", x: (LEFT + width - RIGHT) / 2, y: HEIGHT / 2 - 4, "text-anchor": "middle" },
      "no bad outcome of either version yet: no odds to compare"));
  }
  if (line.length) marks.push(s("circle", { class: "newest", cx: x(line.at(-1).position), cy: y(line.at(-1).effect), r: 3.5 }));
  marks.push(...decisions(gate, content, points, x, width));
  marks.push(s("line", { class: "cursor", x1: -9, x2: -9, y1: TOP, y2: HEIGHT - BOTTOM }));
  marks.push(s("text", { class: "tick", x: LEFT, y: HEIGHT - 6 }, ofLabels(gate) ? "labelled looks" : "looks"),
    s("text", { class: "tick", x: width - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, String(points.at(-1)?.position ?? 0)));

  const readout = h("p", { class: "readout", "data-live": "" });
  const say = (point, figure) => {
    const cursor = figure.querySelector(".cursor");
    const at = point ? x(point.position) : -9;
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    figure.querySelector(".readout").textContent = point ? told(gate, content, point) : "";
  };
  const nearest = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    return points.reduce((best, p) => (Math.abs(x(p.position) - at) < Math.abs(x(best.position) - at) ? p : best), points[0]);
  };
  const image = s("svg", {
    class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: points.length ? 0 : null,
    "aria-label": summary(gate, content, points.at(-1)),
    onpointermove: (event) => points.length && say(nearest(event), event.currentTarget.closest("figure")),
    onpointerleave: (event) => say(null, event.currentTarget.closest("figure")),
    onblur: (event) => say(null, event.currentTarget.closest("figure")),
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -1e6, End: 1e6 }[event.key];
      if (!step || !points.length) return;
      event.preventDefault();
      const figure = event.currentTarget.closest("figure");
      const before = Number(figure.dataset.at ?? points.length - 1);
      const at = Math.min(points.length - 1, Math.max(0, (Number.isFinite(before) ? before : points.length - 1) + step));
      figure.dataset.at = String(at);
      say(points[at], figure);
    },
  }, ...marks);
  return h("figure", {}, image, readout, numbers(gate, content, points));
}

// What is proven: the truth is above the lower and below the upper bound. A side without a bound is open.
function bands(points, x, y, odds) {
  const found = [];
  const runs = [];
  for (const point of points) {
    const run = runs.at(-1);
    if (run && run.at(-1).stage === point.stage) run.push(point);
    else runs.push([point]);
  }
  for (const run of runs) {
    const bounded = run.filter((p) => (p.low !== null || p.high !== null) && (odds || p.effect !== null));
    if (!bounded.length) continue;
    const up = bounded.map((p) => `${x(p.position).toFixed(1)} ${(p.high === null ? TOP : y(p.high)).toFixed(1)}`);
    const down = bounded.map((p) => `${x(p.position).toFixed(1)} ${(p.low === null ? HEIGHT - BOTTOM : y(p.low)).toFixed(1)}`).reverse();
    found.push(s("path", { class: "band", d: `M${[...up, ...down].join("L")}Z` }));
    for (const side of ["low", "high"]) {
      const edge = bounded.filter((p) => p[side] !== null);
      found.push(s("path", { class: "bound", d: edge.map((p, i) => `${i ? "L" : "M"}${x(p.position).toFixed(1)} ${y(p[side]).toFixed(1)}`).join("") }));
    }
  }
  return found;
}

// Each stage has its own margins; where one begins there is a line with its share.
function stageMarks(gate, content, points, x, y, last, width) {
  const found = [];
  const begins = new Map();
  for (const { stage, position } of points) if (!begins.has(stage)) begins.set(stage, position);
  const stages = [...begins.keys()];
  let written = -99;
  stages.forEach((stage, i) => {
    const from = i ? x(begins.get(stage)) : LEFT;
    const to = i + 1 < stages.length ? x(begins.get(stages[i + 1])) : width - RIGHT;
    const line = gate.lines.find((each) => each.stage === stage);
    if (i) found.push(s("line", { class: "stage", x1: from, x2: from, y1: TOP, y2: HEIGHT - BOTTOM }));
    if (from - written > 34) {
      const { share, mirror_percent: mirror, offline } = content.stages[stage];
      const text = offline ? "offline" : share || !mirror ? `${share} %` : "mirrored";
      found.push(s("text", { class: "tick share", x: from + 3, y: TOP - 4 }, text));
      written = from;
    }
    for (const kind of ["harm", "pass"]) {
      const value = line?.[kind];
      if (value !== null && value !== undefined) found.push(s("line", { class: kind, x1: from, x2: to, y1: y(value), y2: y(value) }));
    }
  });
  return found;
}

const MARKS = { passed: "✓", held: "‖", "rolled back": "↩", "cut over": "★", resumed: "▶" };

// These wait for labels: their looks are counted once the labels are there, some time after the look.
const ofLabels = (gate) => gate.metric === "wrong_rate" || gate.metric === "value";

function decisions(gate, content, points, x, width) {
  const end = points.at(-1)?.position ?? 0;
  const found = [];
  for (const { position: looks, labelled, what } of content.decided) {
    const position = ofLabels(gate) ? labelled : looks;
    if (position === null || position === undefined) continue;
    const at = x(Math.min(Math.max(position, 1), Math.max(end, 1)));
    found.push(s("line", { class: `decided ${what.replace(" ", "-")}`, x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }),
      s("text", { class: "decided", x: Math.min(at, width - RIGHT - 5), y: HEIGHT - BOTTOM - 4, "text-anchor": "middle" },
        s("title", {}, what), MARKS[what]));
  }
  return found;
}

function told(gate, content, point) {
  const look = `look ${point.position}, at ${content.stages[point.stage].share} %`;
  const low = point.low === null ? "" : ` at least ${shown(gate, point.low)}`;
  const high = point.high === null ? "" : ` at most ${shown(gate, point.high)}`;
  const proven = low || high ? `; proven:${low}${low && high ? "," : ""}${high}` : "; no bound yet";
  return `${look}: ${shown(gate, point.effect)}${gate.scale === "ratio" ? "" : proven}`;
}

function summary(gate, content, newest) {
  if (!newest) return `${gate.name}: no looks yet`;
  return `${gate.name} over the looks. Newest: ${told(gate, content, newest)}. Left and right arrows read single looks.`;
}

function numbers(gate, content, points) {
  // a hundred cells a chart that nobody may open are made when somebody does
  const details = h("details", { class: "numbers", "data-live": "", ontoggle: (event) => {
    const { target } = event;
    const there = target.querySelector("div");
    if (!target.open) there?.remove();
    else if (there) morph(there, numberTable(gate, content, points));
    else target.append(numberTable(gate, content, points));
  } }, h("summary", {}, "Numbers"));
  return details;
}

function numberTable(gate, content, points) {
  const few = points.length > 40 ? points.filter((_, i) => i % Math.ceil(points.length / 40) === 0 || i === points.length - 1) : points;
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers of ${gate.name}` }, h("table", {},
      h("thead", {}, h("tr", {}, ...["Look", "Share", "Estimate", "At least", "At most"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, ...few.map((p) => h("tr", {}, h("td", {}, String(p.position)), h("td", {}, `${content.stages[p.stage].share} %`),
        ...[p.effect, p.low, p.high].map((v) => h("td", {}, shown(gate, v))))))));
}
