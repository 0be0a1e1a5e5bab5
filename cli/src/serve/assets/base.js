// On every page: theme, keyboard, tooltips, and how changes are sent.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with attributes and children; text stays text. */
export function make(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

/** Says something in passing, also to screen readers. */
export function say(text, bad = false) {
  const said = $("#said");
  if (!said) return;
  said.textContent = text;
  said.className = bad ? "bad" : "";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ""; }, bad ? 8000 : 3000);
}

const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
const store = (key, value) => { try { localStorage.setItem(key, value); } catch { /* storage is off */ } };

/** Sends a change; what comes back, or an error with the server's words. */
export async function post(address, body) {
  const headers = { "content-type": "application/json" };
  const token = stored("token");
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(body) });
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401 && askToken()) return post(address, body);
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

function askToken() {
  const token = prompt("The token that `lm-saes serve` printed when it started:", "");
  if (!token) return false;
  store("token", token.trim());
  return true;
}

/** Runs a change and says how it went. */
export async function attempt(done, run) {
  try {
    const found = await run();
    if (done) say(done);
    return found;
  } catch (e) {
    say(e.message, true);
    return null;
  }
}

export function number(x) {
  if (!Number.isFinite(x)) return "–";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size < 0.001 || size >= 1e6) return x.toExponential(2);
  return x.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
}

export function percent(share) {
  const p = 100 * share;
  return p === 0 ? "0 %" : p < 1e-4 ? `${p.toExponential(1)} %` : `${p.toFixed(p < 0.1 ? 4 : p < 10 ? 2 : 1)} %`;
}

/** Class of a token by its share of the largest activation, as on the server. */
export function shade(act, max) {
  const share = max > 0 ? Math.abs(act) / max : 0;
  if (!(share > 0)) return "";
  return `h${Math.min(12, Math.max(1, Math.ceil(share * 12)))}${act < 0 ? " n" : ""}`;
}

/** A token as it can be read, as on the server. */
export const visible = (text) => text.replace(/[\n\r]/g, "⏎").replace(/\t/g, "⇥").replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "\ufffd");

/** `address` of the page of a feature in a template with INDEX. */
export const pageOf = (template, index) => template.replace("INDEX", index);

// Tooltips: anything with data-tip, and tokens of a context, whose place says their position.
const tip = $("#tip");
export function showTip(text, x, y) {
  if (!tip) return;
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 8) : y + 18}px`;
}
export const hideTip = () => { if (tip) tip.hidden = true; };

function tokenTip(token) {
  const line = token.closest(".toks");
  const at = $$("i", line).indexOf(token) + 1;
  const act = token.dataset.a;
  return `${JSON.stringify(token.textContent)}\nactivation ${act ?? 0}\nposition ${at}${token.dataset.more ? `\n${token.dataset.more}` : ""}`;
}

document.addEventListener("pointermove", (e) => {
  const target = e.target instanceof Element ? e.target : null;
  const told = target?.closest("[data-tip]");
  const token = target?.closest(".toks i");
  if (told) showTip(told.dataset.tip, e.clientX, e.clientY);
  else if (token) showTip(tokenTip(token), e.clientX, e.clientY);
  else if (!target?.closest("canvas")) hideTip();
});
document.addEventListener("pointerdown", (e) => {
  const token = e.target instanceof Element ? e.target.closest(".toks i") : null;
  if (token && e.pointerType === "touch") showTip(tokenTip(token), e.clientX, e.clientY);
});
addEventListener("scroll", hideTip, { passive: true });

// Theme.
function turn() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  store("theme", root.dataset.theme);
  document.dispatchEvent(new Event("themechange"));
}
$("#theme")?.addEventListener("click", turn);
$("#token")?.addEventListener("click", askToken);
$("#keys")?.addEventListener("click", () => $("#help")?.showModal());

// Keyboard. Pages add their own keys.
export const keys = {
  "/": () => { $("#find")?.focus(); $("#find")?.select(); },
  "?": () => $("#help")?.showModal(),
  t: turn,
  r: () => $("#random")?.click(),
  d: () => $("#up")?.click(),
  j: () => $("#next")?.click(),
  k: () => $("#prev")?.click(),
  ArrowRight: () => $("#next")?.click(),
  ArrowLeft: () => $("#prev")?.click(),
};
document.addEventListener("keydown", (e) => {
  const typing = e.target instanceof Element && e.target.closest("input, textarea, select, dialog");
  if (e.key === "Escape" && typing) e.target.blur();
  if (typing || e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented) return;
  const run = Object.hasOwn(keys, e.key) ? keys[e.key] : null;
  if (run) { e.preventDefault(); run(); }
});

// Forms do not send what was left empty, so that addresses stay short.
for (const form of $$("form.filter[action]")) {
  form.addEventListener("submit", () => {
    for (const field of $$("input, select", form)) if (field.value === "") field.disabled = true;
    setTimeout(() => { for (const field of $$("input, select", form)) field.disabled = false; });
  });
}
