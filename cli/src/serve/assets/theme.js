// Runs before anything is drawn, so that a page never flashes in the other theme.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* storage is off: follow the system */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
