// Before anything is drawn: light or dark as it was chosen here; else as the system says.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Where nothing may be kept, the system says.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
