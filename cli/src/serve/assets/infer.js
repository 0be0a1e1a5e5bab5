// Text typed by the reader: tokens coloured by their strongest feature, and the features of one token or of all.
import { $, $$, attempt, make, number, pageOf, percent, post, shade, visible } from "./base.js";

const form = $("#live");
const MOST = 50;
let found = null;

form.addEventListener("submit", async (e) => {
  e.preventDefault();
  const button = $("button", form);
  button.disabled = true;
  button.textContent = "Running …";
  found = await attempt(null, () => post(form.dataset.api, { text: form.elements.text.value }));
  button.disabled = false;
  button.textContent = "Run";
  if (!found) return;
  const strongest = (t) => t.features.reduce((most, [f, v]) => Math.max(most, relative(f, v)), 0);
  $("#tokens").replaceChildren(...found.tokens.map((t, at) => {
    const token = make("i", { class: `${shade(strongest(t), 1)} choice`, tabindex: t.features.length ? 0 : null, "data-more": `${t.features.length} features` }, visible(t.text));
    if (!t.counts) token.classList.add("out");
    token.dataset.a = t.features.length ? number(t.features[0][1]) : 0;
    token.dataset.at = at;
    return token;
  }));
  $("#shown").hidden = $("#active").hidden = false;
  choose(null);
});
form.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); form.requestSubmit(); }
});

/** Activation as a share of the largest the analysis saw. */
function relative(feature, value) {
  const max = found.features[feature]?.max_act ?? 0;
  return max > 0 ? Math.abs(value) / max : 0;
}

/** Lists what fires on one token, or on any. */
function choose(at) {
  for (const e of $$("#tokens i")) e.classList.toggle("chosen", at !== null && Number(e.dataset.at) === at);
  const strongest = new Map();
  const tokens = at === null ? found.tokens : [found.tokens[at]];
  tokens.forEach((t, i) => t.features.forEach(([f, v]) => {
    const known = strongest.get(f);
    if (!known || Math.abs(v) > Math.abs(known.value)) strongest.set(f, { value: v, at: at ?? i, times: (known?.times ?? 0) + 1 });
    else known.times++;
  }));
  const all = [...strongest].sort(([f, a], [g, b]) => Math.abs(b.value) - Math.abs(a.value) || f - g);
  $("#which").textContent = at === null ? `${all.length} features fire on this text` : `On ${JSON.stringify(visible(found.tokens[at].text))}: ${all.length} features`;
  $("#found").replaceChildren(...all.slice(0, MOST).map(([f, { value, at: where, times }]) => row(f, value, where, times, at === null)));
  if (all.length > MOST) $("#found").append(make("li", { class: "faint" }, `… and ${all.length - MOST} weaker ones`));
}

function row(f, value, where, times, whole) {
  const known = found.features[f] ?? {};
  const index = make("a", { class: "index", href: pageOf(form.dataset.page, f) }, String(f));
  const what = make("div", { class: "what" });
  if (known.explanation) what.append(make("p", { class: "says" }, known.explanation));
  if (known.preview?.length) {
    const shades = known.preview.map(([text, act]) => make("i", { class: shade(act, known.max_act), "data-a": act ? number(act) : null }, visible(text)));
    what.append(make("span", { class: "toks" }, ...shades));
  }
  if (whole || !known.preview?.length) {
    const token = make("code", { class: "chip" }, visible(found.tokens[where].text).replaceAll(" ", "␣"));
    what.append(make("p", { class: "faint" }, "here strongest on ", token, times > 1 ? `, fires on ${times} tokens` : ""));
  }
  const bar = make("meter", { max: 1, value: Math.min(1, relative(f, value)), title: `${percent(relative(f, value))} of its maximum ${number(known.max_act ?? NaN)}` });
  const li = make("li", { "data-feature": f }, index, make("span"), what, bar, make("span", { class: "num", title: "activation" }, number(value)));
  li.addEventListener("pointerenter", () => light(f));
  li.addEventListener("pointerleave", () => light(null));
  li.addEventListener("focusin", () => light(f));
  return li;
}

/** Frames the tokens a feature fires on. */
function light(feature) {
  $$("#tokens i").forEach((e, i) => e.classList.toggle("lit", feature !== null && found.tokens[i].features.some(([f]) => f === feature)));
}

function chosen(e) {
  const token = e.target.closest("#tokens i");
  if (!token || !found) return;
  choose(token.classList.contains("chosen") ? null : Number(token.dataset.at));
}
$("#tokens").addEventListener("click", chosen);
$("#tokens").addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); chosen(e); } });
