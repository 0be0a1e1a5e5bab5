// A feature's page: contexts that open and jump, where attention comes from, explanation, bookmark, a text to try.
import { $, $$, attempt, keys, make, number, post, say, shade, visible } from "./base.js";

const root = $("div.feature");
const api = `/api${root.dataset.api}/f/${root.dataset.index}`;

// Contexts.
function open(sample, whole) {
  sample.classList.toggle("open", whole);
  const button = $(".toopen", sample);
  if (button) button.textContent = sample.classList.contains("open") ? "less" : "whole";
}
function toPeak(sample) {
  const token = $$(".toks i", sample)[Number(sample.dataset.peak)];
  if (!token) return;
  sample.focus({ preventScroll: true });
  token.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  token.classList.remove("found");
  requestAnimationFrame(() => token.classList.add("found"));
}
let at = -1;
function nextPeak() {
  const all = $$("article.sample[data-peak]");
  if (!all.length) return;
  at = (at + 1) % all.length;
  toPeak(all[at]);
}
function openAll() {
  const all = $$("article.sample");
  const whole = all.some((s) => !s.classList.contains("open"));
  for (const sample of all) open(sample, whole);
  const button = $("#openall");
  if (button) button.textContent = whole ? "Around the maximum" : "Whole contexts";
}
$("#samples")?.addEventListener("click", (e) => {
  const sample = e.target.closest("article.sample");
  if (e.target.closest(".toopen")) open(sample);
  else if (e.target.closest(".tojump")) { at = $$("article.sample[data-peak]").indexOf(sample); toPeak(sample); }
  else if (e.target.closest("#openall")) openAll();
  else if (e.target.closest("#tabs a") && !e.ctrlKey && !e.metaKey && !e.shiftKey && e.button === 0) {
    e.preventDefault();
    show(e.target.closest("a").href);
  }
});

// Another sampling takes the place of this one without a new page.
async function show(address, remember = true) {
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    $("#samples").replaceChildren(...$("#samples", page).childNodes);
    at = -1;
    if (remember) history.pushState(null, "", address);
  } catch (e) {
    say(e.message, true);
  }
}
addEventListener("popstate", () => show(location.href, false));

// Where the activation of a token comes from: the sources turn green while it is pointed at.
let painted = [];
function paint(token) {
  for (const e of painted) { e.classList.remove(...[1, 2, 3, 4, 5, 6].map((n) => `z${n}`)); delete e.dataset.more; }
  painted = [];
  const sample = token?.closest("article.sample[data-z]");
  if (!sample) return;
  const all = $$(".toks i", sample);
  const query = all.indexOf(token);
  const sources = JSON.parse(sample.dataset.z).filter(([q]) => q === query);
  const most = Math.max(...sources.map(([, , v]) => Math.abs(v)), 0);
  for (const [, key, value] of sources) {
    const source = all[key];
    if (!source || !(most > 0)) continue;
    source.classList.add(`z${Math.max(1, Math.ceil((6 * Math.abs(value)) / most))}`);
    source.dataset.more = `contributes ${number(value)}`;
    painted.push(source);
  }
}
$("#samples")?.addEventListener("pointerover", (e) => paint(e.target.closest("#contexts .toks i")));

// Explanation.
const editor = $("#editor");
function edit(on = true) {
  editor.hidden = !on;
  $("#says").hidden = on;
  if (on) { editor.elements.text.focus(); editor.elements.text.select(); }
}
async function save(text) {
  const found = await attempt(text ? "Explanation saved" : "Explanation removed", () => post(`${api}/explanation`, { text }));
  if (!found) return;
  $("#says").textContent = found.text ?? "";
  $("#by").textContent = found.text ? "written by hand" : "None yet.";
  $("#edit").textContent = found.text ? "Edit" : "Write one";
  $("#explanation > dl")?.remove();
  edit(false);
}
$("#edit").addEventListener("click", () => edit(editor.hidden));
editor.addEventListener("submit", (e) => { e.preventDefault(); save(editor.elements.text.value); });
editor.elements.cancel.addEventListener("click", () => edit(false));
editor.elements.remove?.addEventListener("click", () => { editor.elements.text.value = ""; save(null); });
editor.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); save(editor.elements.text.value); }
  if (e.key === "Escape") edit(false);
});

// Bookmark and lists.
const star = $("#star");
const card = $("#bookmark");
async function mark() {
  const on = star.getAttribute("aria-pressed") !== "true";
  const found = await attempt(on ? "Bookmarked" : "Bookmark removed", () => post(`${api}/bookmark`, { bookmarked: on }));
  if (!found) return;
  star.setAttribute("aria-pressed", String(found.bookmarked));
  card.hidden = !found.bookmarked;
}
star.addEventListener("click", mark);
const note = $("form", card);
note.addEventListener("submit", (e) => {
  e.preventDefault();
  const tags = note.elements.tags.value.split(",");
  attempt("Bookmark saved", () => post(`${api}/bookmark`, { bookmarked: true, tags, notes: note.elements.notes.value }));
});
const tolist = $("#tolist");
tolist.addEventListener("submit", async (e) => {
  e.preventDefault();
  const list = tolist.elements.list.value;
  const dictionary = decodeURIComponent(root.dataset.api.slice("/d/".length));
  const found = await attempt(null, () => post("/api/lists/members", { list, dictionary, feature: Number(root.dataset.index) }));
  if (found) say(`${found.name} has ${found.features.length} ${found.features.length === 1 ? "feature" : "features"}`);
});

// A text to try.
const trial = $("#try form");
trial.addEventListener("submit", async (e) => {
  e.preventDefault();
  const out = $("#tried");
  out.textContent = "running …";
  const feature = Number(root.dataset.index);
  const found = await attempt(null, () => post(trial.dataset.api, { text: trial.elements.text.value, feature }));
  out.textContent = "";
  if (!found) return;
  const known = Number($("#contexts")?.dataset.max ?? 0);
  const acts = found.tokens.map((t) => t.features[0]?.[1] ?? 0);
  const max = Math.max(known, ...acts.map(Math.abs));
  found.tokens.forEach((t, i) => {
    const token = make("i", { class: shade(acts[i], max), "data-a": acts[i] ? number(acts[i]) : null }, visible(t.text));
    if (!t.counts) token.classList.add("out");
    out.append(token);
  });
  if (acts.every((a) => a === 0)) out.append(make("span", { class: "faint" }, " It does not fire here."));
});
trial.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); trial.requestSubmit(); }
});

// The frame for other pages.
const frame = $("#frame");
frame?.addEventListener("click", (e) => {
  if (e.ctrlKey || e.metaKey || !navigator.clipboard) return;
  e.preventDefault();
  const code = `<iframe src="${frame.href}" width="640" height="480"></iframe>`;
  navigator.clipboard.writeText(code).then(() => say("The frame's code is in the clipboard"), () => { location.href = frame.href; });
});

Object.assign(keys, { m: nextPeak, x: openAll, b: mark, e: () => edit(true) });
// Touch has no pointing: a tap shows the sources.
$("#samples")?.addEventListener("click", (e) => {
  const token = e.target.closest("#contexts .toks i");
  if (token) paint(token);
});
