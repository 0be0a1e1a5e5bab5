// The scatter of a dictionary: density across, maximum upwards, both logarithmic. A click opens, a rectangle filters.
import { $, hideTip, number, pageOf, percent, showTip } from "./base.js";

const figure = $("#scatter");
if (figure) start().catch((e) => { $("figcaption", figure).textContent = `No plot: ${e.message}`; });

async function start() {
  const answer = await fetch(figure.dataset.source);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const bytes = await answer.arrayBuffer();
  const n = bytes.byteLength / 8;
  const times = new Uint32Array(bytes, 0, n);
  const maxima = new Float32Array(bytes, 4 * n, n);
  const tokens = Math.max(1, Number(figure.dataset.tokens));
  const alive = [];
  for (let i = 0; i < n; i++) if (times[i] > 0 && maxima[i] > 0) alive.push(i);
  plot(alive, (i) => Math.log10(times[i] / tokens), (i) => Math.log10(maxima[i]));
}

function plot(alive, across, up) {
  const canvas = $("canvas", figure);
  const range = (f) => alive.reduce(([a, b], i) => [Math.min(a, f(i)), Math.max(b, f(i))], [Infinity, -Infinity]);
  const widen = ([a, b]) => (a > b ? [-1, 0] : [a - 0.05 * (b - a || 1), b + 0.05 * (b - a || 1)]);
  const [x0, x1] = widen(range(across));
  const [y0, y1] = widen(range(up));
  const edge = { left: 46, right: 10, top: 8, bottom: 32 };
  let wide = 0, high = 0, chosen = -1, drag = null;
  const px = (v) => edge.left + ((v - x0) / (x1 - x0)) * (wide - edge.left - edge.right);
  const py = (v) => high - edge.bottom - ((v - y0) / (y1 - y0)) * (high - edge.top - edge.bottom);
  const vx = (p) => x0 + ((p - edge.left) / (wide - edge.left - edge.right)) * (x1 - x0);
  const vy = (p) => y0 + ((high - edge.bottom - p) / (high - edge.top - edge.bottom)) * (y1 - y0);
  const g = canvas.getContext("2d");

  function draw() {
    const scale = devicePixelRatio || 1;
    wide = canvas.clientWidth;
    high = canvas.clientHeight;
    canvas.width = wide * scale;
    canvas.height = high * scale;
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, wide, high);
    const style = getComputedStyle(figure);
    g.font = `11px ${style.fontFamily}`;
    g.fillStyle = style.color;
    g.strokeStyle = style.borderTopColor;
    g.lineWidth = 1;
    g.textAlign = "center";
    for (const v of ticks(x0, x1)) {
      g.beginPath(); g.moveTo(px(v), edge.top); g.lineTo(px(v), high - edge.bottom); g.stroke();
      g.fillText(`${Number((100 * 10 ** v).toPrecision(1))} %`, px(v), high - edge.bottom + 13);
    }
    g.textAlign = "right";
    for (const v of ticks(y0, y1)) {
      g.beginPath(); g.moveTo(edge.left, py(v)); g.lineTo(wide - edge.right, py(v)); g.stroke();
      g.fillText(String(Number((10 ** v).toPrecision(2))), edge.left - 5, py(v) + 4);
    }
    g.textAlign = "center";
    g.fillText("share of tokens", (wide + edge.left) / 2, high - 4);
    g.save();
    g.translate(10, (high - edge.bottom) / 2);
    g.rotate(-Math.PI / 2);
    g.fillText("maximum", 0, 0);
    g.restore();
    g.fillStyle = style.getPropertyValue("accent-color");
    g.globalAlpha = alive.length > 20000 ? 0.3 : 0.55;
    const size = alive.length > 20000 ? 1.6 : 2.6;
    for (const i of alive) g.fillRect(px(across(i)) - size / 2, py(up(i)) - size / 2, size, size);
    g.globalAlpha = 1;
    if (chosen >= 0) {
      g.strokeStyle = style.color;
      g.lineWidth = 2;
      g.beginPath(); g.arc(px(across(chosen)), py(up(chosen)), 6, 0, 7); g.stroke();
    }
    if (drag?.moved) {
      g.strokeStyle = style.color;
      g.setLineDash([4, 3]);
      g.strokeRect(Math.min(drag.x, drag.toX), Math.min(drag.y, drag.toY), Math.abs(drag.toX - drag.x), Math.abs(drag.toY - drag.y));
      g.setLineDash([]);
    }
  }

  function nearest(x, y) {
    let best = -1, least = 14 * 14;
    for (const i of alive) {
      const d = (px(across(i)) - x) ** 2 + (py(up(i)) - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  const open = (i) => { if (i >= 0) location.href = pageOf(figure.dataset.page, i); };
  const tell = (i, x, y) => showTip(`feature ${i}\nfires on ${percent(10 ** across(i))} of tokens\nmaximum ${number(10 ** up(i))}`, x, y);

  canvas.addEventListener("pointermove", (e) => {
    if (drag) {
      drag.toX = e.offsetX;
      drag.toY = e.offsetY;
      drag.moved ||= Math.hypot(drag.toX - drag.x, drag.toY - drag.y) > 6;
    } else {
      chosen = nearest(e.offsetX, e.offsetY);
      if (chosen >= 0) tell(chosen, e.clientX, e.clientY); else hideTip();
    }
    draw();
  });
  canvas.addEventListener("pointerleave", () => { if (!drag) { chosen = -1; hideTip(); draw(); } });
  canvas.addEventListener("pointerdown", (e) => {
    drag = { x: e.offsetX, y: e.offsetY, toX: e.offsetX, toY: e.offsetY, moved: false };
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
  canvas.addEventListener("pointerup", (e) => {
    const done = drag;
    drag = null;
    if (!done?.moved) return open(nearest(e.offsetX, e.offsetY));
    const form = $("#filter");
    const set = (name, value) => { form.elements[name].value = value.toPrecision(4); };
    const [left, right] = [done.x, done.toX].sort((a, b) => a - b);
    const [top, bottom] = [done.y, done.toY].sort((a, b) => a - b);
    set("min_percent", 100 * 10 ** vx(left));
    set("max_percent", Math.min(100, 100 * 10 ** vx(right)));
    set("min_max", 10 ** vy(bottom));
    set("max_max", 10 ** vy(top));
    form.requestSubmit();
  });
  // By keyboard: from point to point by density.
  const order = alive.slice().sort((a, b) => across(a) - across(b));
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (step && order.length) {
      e.preventDefault();
      e.stopPropagation();
      chosen = order[(order.indexOf(chosen) + step + order.length) % order.length];
      const box = canvas.getBoundingClientRect();
      tell(chosen, box.left + px(across(chosen)), box.top + py(up(chosen)));
      draw();
    } else if (e.key === "Enter") open(chosen);
  });
  new ResizeObserver(draw).observe(canvas);
  document.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  figure.dataset.points = alive.length;
}

/** Whole decades, with 2 and 5 in between where there are few. */
function ticks(from, to) {
  const whole = [];
  for (let v = Math.ceil(from); v <= to; v++) whole.push(v);
  if (whole.length >= 3) return whole;
  const fine = [];
  for (let v = Math.floor(from); v <= to; v++) for (const m of [1, 2, 5]) fine.push(v + Math.log10(m));
  return fine.filter((v) => v >= from && v <= to);
}
