// Administration: names and places changed; what cannot be taken back after its name was typed again.
import { $, $$, attempt, post } from "./base.js";

/** Runs a change and shows the page as it is then. */
async function change(run) {
  if (await attempt(null, run)) location.reload();
}

for (const form of $$("form.edit")) {
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const { name, path, model_name } = form.elements;
    change(() => post(form.dataset.api, { name: name.value, path: path.value, model_name: model_name.value }));
  });
}
for (const form of $$("form.move")) {
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    change(() => post("/api/runs", { name: form.dataset.run, rename: form.elements.rename.value }));
  });
}
for (const form of $$("form.remove")) {
  const { api, name } = form.dataset;
  const [field, button] = [form.elements.confirm, $("button", form)];
  const check = () => { button.disabled = field.value !== name; };
  field.addEventListener("input", check);
  check();
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const which = api === "/api/runs" ? { name } : api.includes("/analyses/remove") ? { analysis: name } : {};
    change(() => post(api, { ...which, confirm: field.value }));
  });
}
