// Bookmarks and lists: making and removing.
import { $, $$, attempt, post } from "./base.js";

for (const button of $$(".unmark")) {
  button.addEventListener("click", async () => {
    if (await attempt("Bookmark removed", () => post(button.dataset.api, { bookmarked: false }))) {
      button.closest("li").remove();
      const total = $("#total");
      total.textContent = Math.max(0, Number(total.textContent.replaceAll(" ", "")) - 1);
    }
  });
}
for (const button of $$(".unlist")) {
  const { list, dictionary, feature } = button.dataset;
  button.addEventListener("click", async () => {
    const body = { list, dictionary, feature: Number(feature), remove: true };
    if (await attempt("Taken out of the list", () => post("/api/lists/members", body))) button.closest("li").remove();
  });
}
$("#newlist")?.addEventListener("submit", async (e) => {
  e.preventDefault();
  const { name, notes } = e.target.elements;
  if (await attempt(null, () => post("/api/lists", { name: name.value, notes: notes.value }))) location.reload();
});
$("#removelist")?.addEventListener("click", async (e) => {
  const name = e.target.dataset.list;
  if (!confirm(`Remove the list ${JSON.stringify(name)}? Its features stay.`)) return;
  if (await attempt(null, () => post("/api/lists", { name, remove: true }))) location.href = "/lists";
});
