// What all pages have: light or dark, keys, and figures that stay current.

import { live } from "./live.js";

const root = document.documentElement;
const theme = document.getElementById("theme");
const shortcuts = document.getElementById("shortcuts");
const isDark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
}

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // It holds for this page at least.
  }
  nameTheme();
  document.dispatchEvent(new CustomEvent("theme"));
}

let before = "";

function pressed(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog")) return;
  const goes = before === "g";
  before = key;
  if (key === "?") shortcuts.showModal();
  else if (key === "t") switchTheme();
  else if (goes && key === "r") location.assign(`${document.body.dataset.base}/`);
  else if (goes) document.querySelector(`[data-go="${CSS.escape(key)}"]`)?.click();
}

theme.hidden = false;
theme.addEventListener("click", switchTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();
const help = document.getElementById("help");
help.hidden = false;
help.addEventListener("click", () => shortcuts.showModal());
document.addEventListener("keydown", pressed);
const log = document.getElementById("log");
if (log) log.scrollTop = log.scrollHeight;
live();
