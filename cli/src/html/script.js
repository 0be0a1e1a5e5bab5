// The list of index.html, and the arrow keys of feature pages. Text from outside is only ever set as text.
"use strict";
const byId = (id) => document.getElementById(id);

if (byId("rows")) {
    const PAGE = 200;
    let found = FEATURES, shown = 0;
    const cell = (row, text) => { row.insertCell().textContent = text; };
    const more = () => {
        for (const [index, density, max, explanation, tokens] of found.slice(shown, shown + PAGE)) {
            const row = byId("rows").insertRow();
            const link = document.createElement("a");
            link.href = `features/${index}.html`;
            link.textContent = index;
            row.insertCell().append(link);
            cell(row, `${(100 * density).toPrecision(3)} %`);
            cell(row, max.toFixed(3));
            cell(row, explanation || tokens.map((t) => JSON.stringify(t)).join("  "));
        }
        shown = Math.min(shown + PAGE, found.length);
        byId("more").hidden = shown >= found.length;
        byId("count").textContent = `${found.length} features`;
    };
    const list = () => {
        const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
        const by = Number(byId("sort").value);
        const text = (f) => `${f[0]} ${f[3]} ${f[4].join(" ")}`.toLowerCase();
        found = FEATURES.filter((f) => { const t = text(f); return words.every((w) => t.includes(w)); });
        if (by > 0) found.sort((a, b) => b[by] - a[by] || a[0] - b[0]);
        shown = 0;
        byId("rows").replaceChildren();
        more();
    };
    byId("search").addEventListener("input", list);
    byId("sort").addEventListener("change", list);
    byId("more").addEventListener("click", more);
    byId("tools").addEventListener("submit", (e) => e.preventDefault());
    list();
}

document.addEventListener("keydown", (e) => {
    if (e.target.matches("input, select, textarea") || e.ctrlKey || e.metaKey || e.altKey) return;
    const link = { ArrowLeft: "previous", k: "previous", ArrowRight: "next", j: "next" }[e.key];
    if (link && byId(link)) byId(link).click();
});
