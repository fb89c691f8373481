// What the mosaic says of the place under the pointer.

import { latOf, lonOf } from "./places.js";

const REST_MS = 120;
const $ = (id) => document.getElementById(id);

let resting = 0;
let asked = null;

// Tell where [x, y] is at once, and what the mosaic says of it when the pointer rests there.
export function point([x, y], time, now = false) {
  if (y < 0 || y > 1) return;
  const lon = lonOf(x - Math.floor(x));
  const lat = latOf(y);
  $("place").textContent = `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(5)}° ${lon < 0 ? "W" : "E"}`;
  clearTimeout(resting);
  resting = setTimeout(() => read(lon, lat, time), now ? 0 : REST_MS);
}

async function read(lon, lat, time) {
  asked?.abort();
  asked = new AbortController();
  try {
    const answer = await fetch(`value?lon=${lon}&lat=${lat}&time=${time}`, { signal: asked.signal });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    report(found);
  } catch (error) {
    if (error.name !== "AbortError") $("values").replaceChildren();
  }
}

// Everything is put in as text: sentences and ids are strangers' words.
function report(found) {
  const table = document.createElement("table");
  found.prompts.forEach((prompt) => {
    const row = table.insertRow();
    row.insertCell().textContent = prompt.expression;
    const share = prompt.probability === null ? "" : ` · ${Math.round(100 * prompt.probability)} %`;
    row.insertCell().textContent = prompt.answer + share;
  });
  const parts = [table];
  if (found.source?.item) {
    const scene = document.createElement("p");
    scene.className = "scene";
    scene.textContent = `seen in ${found.source.item}${found.source.datetime ? `, ${found.source.datetime.slice(0, 10)}` : ""}`;
    parts.push(scene);
  }
  $("values").replaceChildren(...parts);
}
