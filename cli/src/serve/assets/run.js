// Curves of a training run, one small chart a metric, drawn again as the run writes.
import { $, $$, hideTip, make, number, say, showTip } from "./base.js";

const home = $("#curves");
const NS = "http://www.w3.org/2000/svg";
const POINTS = 400;
const WIDE = 320, HIGH = 150, LEFT = 50, BOTTOM = 20, TOP = 6, RIGHT = 6;
const series = new Map();
let next = 0, records = 0, quiet = 0, last = null;

const svg = (name, attributes, text) => {
  const e = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text !== undefined) e.textContent = text;
  return e;
};

function add(record) {
  records++;
  last = record;
  for (const [name, y] of Object.entries(record)) {
    if (name === "step" || name === "tokens" || typeof y !== "number") continue;
    if (!series.has(name)) series.set(name, []);
    series.get(name).push({ step: record.step, tokens: record.tokens, y });
  }
}

async function poll() {
  let wait = 2000;
  try {
    const answer = await fetch(`${home.dataset.source}&from=${next}`);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    if (found.reset) { series.clear(); records = 0; }
    found.records.forEach(add);
    next = found.next;
    if (found.records.length || found.reset) { quiet = 0; draw(); } else quiet++;
    if (found.more) wait = 0;
    $("#state").textContent = `${records} records${last?.step !== undefined ? ` · step ${last.step}` : ""} · ${quiet > 15 ? "no news" : "live"}`;
    if (quiet > 15) wait = 10000;
  } catch (e) {
    say(e.message, true);
    $("#state").textContent = "out of reach; trying again";
    wait = 10000;
  }
  setTimeout(poll, wait);
}

/** At most so many points: the mean of each stretch. */
function thin(points) {
  if (points.length <= POINTS) return points;
  const out = [];
  for (let i = 0; i < POINTS; i++) {
    const part = points.slice(Math.floor((i * points.length) / POINTS), Math.floor(((i + 1) * points.length) / POINTS));
    const mean = (f) => part.reduce((s, p) => s + f(p), 0) / part.length;
    out.push({ x: mean((p) => p.x), y: mean((p) => p.y) });
  }
  return out;
}

/** An exponential mean, without the pull towards 0 at the beginning. */
function smooth(points, weight) {
  let sum = 0, share = 0;
  return points.map(({ x, y }) => {
    sum = weight * sum + (1 - weight) * y;
    share = weight * share + (1 - weight);
    return { x, y: sum / share };
  });
}

function draw() {
  const only = $("#only").value.toLowerCase();
  const names = [...series.keys()].filter((n) => n.toLowerCase().includes(only)).sort();
  for (const figure of $$("figure", home)) if (!names.includes(figure.dataset.name)) figure.remove();
  for (const name of names) {
    let figure = $$("figure", home).find((f) => f.dataset.name === name);
    if (!figure) {
      figure = make("figure", { class: "card curve", "data-name": name }, make("figcaption", {}, make("span"), make("b")));
      const after = $$("figure", home).find((f) => f.dataset.name > name);
      home.insertBefore(figure, after ?? null);
    }
    chart(figure, name);
  }
  if (!names.length) home.dataset.empty = series.size ? "No metric has this in its name." : "No numbers yet.";
  else delete home.dataset.empty;
}

function chart(figure, name) {
  const across = $("#across").value;
  const log = $("#log").checked;
  const all = series.get(name).map((p) => ({ x: p[across] ?? p.step, y: p.y })).filter((p) => Number.isFinite(p.x) && (!log || p.y > 0));
  const raw = thin(all);
  const weight = Number($("#smooth").value);
  const shown = weight > 0 ? smooth(raw, weight) : raw;
  $("figcaption span", figure).textContent = name;
  $("figcaption span", figure).title = name;
  $("figcaption b", figure).textContent = number(all.at(-1)?.y ?? NaN);
  $("svg", figure)?.remove();
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${name}, last ${number(all.at(-1)?.y ?? NaN)}` });
  figure.append(picture);
  if (!raw.length) return;
  const value = (y) => (log ? Math.log10(y) : y);
  const ends = (f) => raw.reduce(([a, b], p) => [Math.min(a, f(p)), Math.max(b, f(p))], [Infinity, -Infinity]);
  const [x0, x1] = ends((p) => p.x);
  let [y0, y1] = ends((p) => value(p.y));
  if (y0 === y1) { y0 -= Math.abs(y0) * 0.1 || 1; y1 += Math.abs(y1) * 0.1 || 1; }
  const px = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * (WIDE - LEFT - RIGHT);
  const py = (y) => HIGH - BOTTOM - ((value(y) - y0) / (y1 - y0)) * (HIGH - BOTTOM - TOP);
  for (const share of [0, 0.5, 1]) {
    const v = y0 + share * (y1 - y0);
    const y = HIGH - BOTTOM - share * (HIGH - BOTTOM - TOP);
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y, y2: y }));
    picture.append(svg("text", { x: LEFT - 4, y: y + 3.5, "text-anchor": "end" }, number(log ? 10 ** v : v)));
  }
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  picture.append(svg("text", { x: LEFT, y: HIGH - 5 }, short.format(x0)));
  picture.append(svg("text", { x: WIDE - RIGHT, y: HIGH - 5, "text-anchor": "end" }, `${short.format(x1)} ${across === "step" ? "steps" : "tokens"}`));
  const path = (points) => points.map((p, i) => `${i ? "L" : "M"}${px(p.x).toFixed(1)} ${py(p.y).toFixed(1)}`).join("");
  if (weight > 0) picture.append(svg("path", { class: "raw", d: path(raw) }));
  picture.append(svg("path", { class: "line", d: path(shown) }));
  const dot = svg("circle", { r: 3, class: "dot", visibility: "hidden" });
  picture.append(dot);
  picture.addEventListener("pointermove", (e) => {
    const box = picture.getBoundingClientRect();
    const at = ((e.clientX - box.left) / box.width) * WIDE;
    const p = shown.reduce((best, q) => (Math.abs(px(q.x) - at) < Math.abs(px(best.x) - at) ? q : best));
    dot.setAttribute("cx", px(p.x));
    dot.setAttribute("cy", py(p.y));
    dot.setAttribute("visibility", "visible");
    e.stopPropagation();
    showTip(`${name}\n${number(p.y)}\nat ${Math.round(p.x).toLocaleString("en")} ${across === "step" ? "steps" : "tokens"}`, e.clientX, e.clientY);
  });
  picture.addEventListener("pointerleave", () => { dot.setAttribute("visibility", "hidden"); hideTip(); });
}

for (const control of ["#across", "#log", "#smooth", "#only"]) $(control).addEventListener("input", draw);
poll();
