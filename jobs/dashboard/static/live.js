// Keep the page as the server has it: it is asked again when the stream of a run says that something changed.

import { patch } from "./patch.js";
import { makeSortable, sortAgain } from "./tables.js";

const LEAST_MS = 1000;
const SPOKEN_MS = 20_000;

let asking = false;
let again = false;
let last = 0;
let spoken = 0;

export function live() {
  makeSortable(document, refresh);
  const { stream, poll } = document.body.dataset;
  if (stream) follow(stream);
  else if (poll) setInterval(() => document.hidden || refresh(), 1000 * Number(poll));
}

// Nothing is sent to a page that nobody looks at.
function follow(address) {
  let source = null;
  const listen = () => {
    source = new EventSource(address);
    source.addEventListener("page", refresh);
    source.addEventListener("happened", refresh);
    source.addEventListener("open", () => connected(true));
    source.addEventListener("error", () => connected(false));
  };
  document.addEventListener("visibilitychange", () => {
    source?.close();
    source = null;
    if (!document.hidden) listen();
  });
  addEventListener("pagehide", () => source?.close());
  if (!document.hidden) listen();
}

export async function refresh() {
  again = true;
  if (asking) return;
  asking = true;
  try {
    while (again) {
      await new Promise((done) => setTimeout(done, Math.max(0, last + LEAST_MS - performance.now())));
      again = false;
      last = performance.now();
      await renew();
    }
  } finally {
    asking = false;
  }
}

async function renew() {
  let text;
  try {
    const answer = await fetch(location.href.split("#")[0], { headers: { Accept: "text/html" } });
    if (!answer.ok) return connected(false);
    text = await answer.text();
  } catch {
    return connected(false);
  }
  connected(true);
  const told = new DOMParser().parseFromString(text, "text/html");
  makeSortable(told, refresh);
  sortAgain(told);
  const [shown, now] = [document.getElementById("main"), told.getElementById("main")];
  if (!now) return;
  const log = document.getElementById("log");
  const atEnd = log && log.scrollTop + log.clientHeight > log.scrollHeight - 8;
  patch(shown, now);
  if (atEnd) log.scrollTop = log.scrollHeight;
  document.title = told.title;
  speak();
  document.dispatchEvent(new CustomEvent("renewed"));
}

// A screen reader is told the sum of it now and then, not every figure that moves.
function speak() {
  const said = document.querySelector("[data-spoken]")?.textContent.trim();
  const heard = document.getElementById("spoken");
  const now = performance.now();
  if (!said || said === heard.textContent || now - spoken < SPOKEN_MS) return;
  spoken = now;
  heard.textContent = said;
}

function connected(yes) {
  const note = document.getElementById("connection");
  note.hidden = yes;
  note.textContent = yes ? "" : "not connected: shown as it was last";
}
