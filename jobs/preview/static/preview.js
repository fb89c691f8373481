// The map: pan, zoom, choose and read.

import { crosshair, graticule, scaleBar, writeLabels } from "./graticule.js";
import { latOf, lonOf, TILE, xOf, yOf } from "./places.js";
import { point } from "./reading.js";

const AT_ONCE = 6;
const KEPT = 300;
const AGAIN_MS = 5_000;
const PENDING_ALPHA = 28; // how tiles say that they are not drawn yet
const VEIL_ALPHA = 56; // how tiles say absent: here it is drawn once under all sentences, in a colour of this page
const GROWS_MS = 15_000;

const canvas = document.getElementById("map");
const pen = canvas.getContext("2d");
const ground = document.createElement("canvas").getContext("2d");
const $ = (id) => document.getElementById(id);

const view = { x: 0.5, y: 0.5, zoom: 1, layer: "mask", time: 0, opacity: 1, prompts: new Set() };
const tiles = new Map(); // address → {bare, veil, state: wanted | coming | here | failed, used}
let mosaic = null;
let coming = 0;
let planned = false;

// Places ----------------------------------------------------------------------------------------------------------

const wide = () => canvas.clientWidth;
const high = () => canvas.clientHeight;
const worldPx = () => TILE * 2 ** view.zoom;
const deepest = () => mosaic.max_zoom + 5;

function placeAt(px, py) {
  return [view.x + (px - wide() / 2) / worldPx(), view.y + (py - high() / 2) / worldPx()];
}

function zoomTo(zoom, px = wide() / 2, py = high() / 2) {
  const [x, y] = placeAt(px, py);
  view.zoom = Math.max(0, Math.min(deepest(), zoom));
  view.x = x - (px - wide() / 2) / worldPx();
  view.y = y - (py - high() / 2) / worldPx();
  moved();
}

function moveBy(dx, dy) {
  view.x += dx / worldPx();
  view.y += dy / worldPx();
  moved();
}

function moved() {
  view.x -= Math.floor(view.x);
  view.y = Math.max(0, Math.min(1, view.y));
  draw();
  remember();
}

function showAll() {
  const [west, south, east, north] = mosaic.bounds;
  const side = wide() > 700 ? 330 : 0; // the panel's
  const across = Math.max(xOf(east) - xOf(west), 1e-9);
  const down = Math.max(yOf(south) - yOf(north), 1e-9);
  const fits = Math.min((wide() - side - 60) / across, (high() - 60) / down) / TILE;
  view.zoom = Math.max(0, Math.min(deepest(), Math.log2(Math.max(fits, 1))));
  view.x = (xOf(west) + xOf(east)) / 2 - side / 2 / worldPx();
  view.y = (yOf(south) + yOf(north)) / 2;
  moved();
}

// The address bar: a place that can be kept and come back to ------------------------------------------------------

let remembering = 0;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const place = `${view.zoom.toFixed(2)}/${latOf(view.y).toFixed(6)}/${lonOf(view.x).toFixed(6)}`;
    const rest = `${[...view.prompts].sort((a, b) => a - b).join(",")}/${timeNumber()}/${view.layer}`;
    history.replaceState(null, "", `#${place}/${rest}`);
  }, 300);
}

function recall() {
  const [zoom, lat, lon, prompts, time, layer] = location.hash.slice(1).split("/");
  if (![zoom, lat, lon].every((part) => part && Number.isFinite(Number(part)))) return false;
  Object.assign(view, { zoom: Math.max(0, Math.min(deepest(), Number(zoom))), x: xOf(Number(lon)), y: yOf(Number(lat)) });
  if (prompts !== undefined) {
    const known = prompts.split(",").filter((part) => part !== "").map(Number);
    view.prompts = new Set(known.filter((number) => number in mosaic.prompts));
  }
  const at = mosaic.times.findIndex((step) => step.number === Number(time));
  if (time && at >= 0) view.time = at;
  if (layer === "score") view.layer = "score";
  return true;
}

// Tiles -----------------------------------------------------------------------------------------------------------

// The times are in order of date; the server knows each by its number, which stays when others come in between.
const timeNumber = () => mosaic.times[view.time].number;

const addressOf = (prompt, z, x, y) => `tiles/${view.layer}/${prompt}/${timeNumber()}/${z}/${x}/${y}.png`;

function tile(prompt, z, x, y, wanted) {
  const address = addressOf(prompt, z, x, y);
  let entry = tiles.get(address);
  if (!entry && wanted) tiles.set(address, (entry = { bare: null, veil: null, state: "wanted", used: 0 }));
  if (entry) entry.used = wanted ? performance.now() : entry.used;
  return entry;
}

async function fetchNext() {
  while (coming < AT_ONCE) {
    const next = [...tiles].filter(([, entry]) => entry.state === "wanted" && entry.used >= drawnAt).at(0);
    if (!next) return;
    const [address, entry] = next;
    coming += 1;
    entry.state = "coming";
    bring(address, entry).finally(() => {
      coming -= 1;
      draw();
    });
  }
}

async function bring(address, entry) {
  try {
    const answer = await fetch(address, { cache: "no-cache" });
    if (!answer.ok) throw new Error((await answer.json()).error ?? answer.statusText);
    const parts = await taken(await createImageBitmap(await answer.blob()));
    close(entry);
    Object.assign(entry, parts, { state: "here" });
    tell("");
  } catch (error) {
    entry.state = "failed";
    setTimeout(() => {
      entry.state = "wanted";
      draw();
    }, AGAIN_MS);
    tell(error instanceof TypeError ? "The preview has been stopped: start it again to see more." : error.message);
  }
}

// A tile taken apart: what is absent, and all the rest of it.
async function taken(picture) {
  const sheet = new OffscreenCanvas(TILE, TILE).getContext("2d", { willReadFrequently: true });
  sheet.drawImage(picture, 0, 0);
  const bare = sheet.getImageData(0, 0, TILE, TILE);
  const veil = new ImageData(TILE, TILE);
  let pending = false;
  for (let alpha = 3; alpha < bare.data.length; alpha += 4) {
    pending ||= bare.data[alpha] === PENDING_ALPHA;
    if (bare.data[alpha] !== VEIL_ALPHA) continue;
    bare.data[alpha] = 0;
    veil.data[alpha] = 255;
  }
  if (pending) document.querySelector(".legend .pending").classList.add("seen");
  return { bare: await createImageBitmap(bare), veil: await createImageBitmap(veil) };
}

function close(entry) {
  entry.bare?.close();
  entry.veil?.close();
}

function forget() {
  const here = [...tiles].filter(([, entry]) => entry.state !== "coming" && entry.used < drawnAt);
  here.sort(([, one], [, other]) => one.used - other.used);
  for (const [address, entry] of here.slice(0, Math.max(0, tiles.size - KEPT))) {
    close(entry);
    tiles.delete(address);
  }
}

// Drawing ---------------------------------------------------------------------------------------------------------

let drawnAt = 0;
function draw() {
  if (planned || !mosaic) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    paint();
  });
}

function paint() {
  const dpr = window.devicePixelRatio || 1;
  const [width, height] = [wide(), high()];
  for (const sheet of [canvas, ground.canvas]) {
    if (sheet.width === Math.round(width * dpr) && sheet.height === Math.round(height * dpr)) continue;
    sheet.width = Math.round(width * dpr);
    sheet.height = Math.round(height * dpr);
  }
  drawnAt = performance.now();
  const look = getComputedStyle(document.documentElement);
  pen.setTransform(dpr, 0, 0, dpr, 0, 0);
  pen.fillStyle = look.getPropertyValue("--paper");
  pen.fillRect(0, 0, width, height);
  paintVeil(look, width, height, dpr);
  const labels = graticule(pen, look, placeAt(0, 0), placeAt(width, height), worldPx());
  pen.globalAlpha = view.opacity;
  for (const prompt of shown()) paintTiles(pen, "bare", prompt, width, height, dpr);
  pen.globalAlpha = 1;
  writeLabels(pen, look, labels);
  if (canvas.matches(":focus-visible")) crosshair(pen, look, width, height);
  scaleBar(view.y, worldPx());
  fetchNext();
  forget();
}

const shown = () => [...view.prompts].sort((a, b) => a - b);

// What was looked at, for any of the sentences shown: one light sheet, however many they are.
function paintVeil(look, width, height, dpr) {
  ground.setTransform(dpr, 0, 0, dpr, 0, 0);
  ground.globalCompositeOperation = "source-over";
  ground.clearRect(0, 0, width, height);
  for (const prompt of shown()) paintTiles(ground, "veil", prompt, width, height, dpr);
  ground.globalCompositeOperation = "source-in";
  ground.fillStyle = look.getPropertyValue("--veil");
  ground.fillRect(0, 0, width, height);
  pen.drawImage(ground.canvas, 0, 0, width, height);
}

function paintTiles(brush, part, prompt, width, height, dpr) {
  const z = Math.max(0, Math.min(mosaic.max_zoom, Math.ceil(view.zoom + Math.log2(dpr) - 0.35)));
  const side = worldPx() / 2 ** z;
  brush.imageSmoothingEnabled = side * dpr < TILE; // closer than the mosaic's own pixels they are squares
  brush.imageSmoothingQuality = "high";
  const left = view.x * 2 ** z - width / 2 / side;
  const top = view.y * 2 ** z - height / 2 / side;
  for (let row = Math.max(0, Math.floor(top)); row <= Math.min(2 ** z - 1, Math.floor(top + height / side)); row++) {
    for (let column = Math.floor(left); column <= Math.floor(left + width / side); column++) {
      const wrapped = ((column % 2 ** z) + 2 ** z) % 2 ** z;
      if (!meets(z, wrapped, row)) continue;
      const entry = tile(prompt, z, wrapped, row, true);
      // Edges are rounded to whole pixels of the screen, or neighbours would leave a seam.
      const [x0, x1] = [column - left, column + 1 - left].map((edge) => Math.round(edge * side * dpr) / dpr);
      const [y0, y1] = [row - top, row + 1 - top].map((edge) => Math.round(edge * side * dpr) / dpr);
      const to = [x0, y0, x1 - x0, y1 - y0];
      if (entry[part]) brush.drawImage(entry[part], ...to);
      else paintCoarser(brush, part, prompt, z, wrapped, row, to);
    }
  }
}

function paintCoarser(brush, part, prompt, z, x, y, to) {
  for (let up = 1; up <= Math.min(6, z); up++) {
    const picture = tile(prompt, z - up, x >> up, y >> up, false)?.[part];
    const size = TILE / 2 ** up;
    if (!picture) continue;
    brush.drawImage(picture, (x - ((x >> up) << up)) * size, (y - ((y >> up) << up)) * size, size, size, ...to);
    return;
  }
}

function meets(z, x, y) {
  const [west, south, east, north] = mosaic.bounds;
  const slack = 0.01;
  const across = x + 1 + slack > xOf(west) * 2 ** z && x - slack < xOf(east) * 2 ** z;
  return across && y + 1 + slack > yOf(north) * 2 ** z && y - slack < yOf(south) * 2 ** z;
}

function tell(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

// Hands -----------------------------------------------------------------------------------------------------------

const fingers = new Map();
let pinch = 0;
let dragged = 0;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  dragged = 0;
  pinch = 0;
});

canvas.addEventListener("pointermove", (event) => {
  const last = fingers.get(event.pointerId);
  const here = [event.offsetX, event.offsetY];
  if (!last) return point(placeAt(...here), timeNumber());
  fingers.set(event.pointerId, here);
  const share = 1 / fingers.size;
  dragged += Math.hypot(here[0] - last[0], here[1] - last[1]);
  canvas.classList.add("moving");
  moveBy((last[0] - here[0]) * share, (last[1] - here[1]) * share);
  if (fingers.size === 2) {
    const [[x0, y0], [x1, y1]] = [...fingers.values()];
    const apart = Math.hypot(x1 - x0, y1 - y0);
    if (pinch) zoomTo(view.zoom + Math.log2(apart / pinch), (x0 + x1) / 2, (y0 + y1) / 2);
    pinch = apart;
  }
});

for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    fingers.delete(event.pointerId);
    pinch = 0;
    canvas.classList.remove("moving");
    if (name === "pointerup" && dragged < 5) point(placeAt(event.offsetX, event.offsetY), timeNumber(), true);
  });
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 20 : 1;
  const step = Math.max(-0.6, Math.min(0.6, (-event.deltaY * lines) / (event.ctrlKey ? 60 : 300)));
  zoomTo(view.zoom + step, event.offsetX, event.offsetY);
}, { passive: false });

canvas.addEventListener("dblclick", (event) => zoomTo(view.zoom + 1, event.offsetX, event.offsetY));

canvas.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 240 : 80;
  const keys = {
    ArrowLeft: () => moveBy(-step, 0),
    ArrowRight: () => moveBy(step, 0),
    ArrowUp: () => moveBy(0, -step),
    ArrowDown: () => moveBy(0, step),
    "+": () => zoomTo(view.zoom + 0.5),
    "=": () => zoomTo(view.zoom + 0.5),
    "-": () => zoomTo(view.zoom - 0.5),
    Home: showAll,
    Enter: () => point([view.x, view.y], timeNumber(), true),
  };
  if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});

for (const name of ["focus", "blur"]) canvas.addEventListener(name, draw);
$("nearer").addEventListener("click", () => zoomTo(view.zoom + 1));
$("farther").addEventListener("click", () => zoomTo(view.zoom - 1));
$("whole").addEventListener("click", showAll);
$("opacity").addEventListener("input", (event) => {
  view.opacity = event.target.value / 100;
  $("opaque").textContent = `${event.target.value} %`;
  draw();
});
$("time")?.addEventListener("input", (event) => {
  view.time = Number(event.target.value);
  $("when").textContent = mosaic.times[view.time].begins.slice(0, 10);
  moved();
});
for (const box of document.querySelectorAll("input[name=prompt]")) {
  box.addEventListener("change", () => {
    view.prompts[box.checked ? "add" : "delete"](Number(box.value));
    moved();
  });
}
for (const choice of document.querySelectorAll("input[name=layer]")) {
  choice.addEventListener("change", () => {
    view.layer = choice.value;
    document.body.dataset.layer = view.layer;
    moved();
  });
}
new ResizeObserver(draw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// Beginning -------------------------------------------------------------------------------------------------------

function showChoices() {
  for (const box of document.querySelectorAll("input[name=prompt]")) box.checked = view.prompts.has(Number(box.value));
  for (const choice of document.querySelectorAll("input[name=layer]")) choice.checked = choice.value === view.layer;
  document.body.dataset.layer = view.layer;
  if ($("time")) $("time").value = view.time;
  $("when").textContent = mosaic.times[view.time].begins.slice(0, 10);
}

// While a run writes the mosaic, what is shown is asked for again now and then; equal tiles are not sent twice.
async function watch() {
  const shown = timeNumber();
  try {
    mosaic = await (await fetch("mosaic.json", { cache: "no-cache" })).json();
  } catch {
    return;
  }
  view.time = mosaic.times.findIndex((step) => step.number === shown);
  if ($("time")) Object.assign($("time"), { max: mosaic.times.length - 1, value: view.time });
  for (const entry of tiles.values()) if (entry.state === "here") entry.state = "wanted";
  draw();
  if (mosaic.growing) setTimeout(watch, GROWS_MS);
}

mosaic = await (await fetch("mosaic.json", { cache: "no-cache" })).json();
view.time = mosaic.times.length - 1;
view.prompts = new Set(mosaic.prompts.slice(0, 3).map((prompt) => prompt.number));
document.querySelector(".panel details").open = wide() > 640;
const recalled = recall();
showChoices();
if (recalled) moved();
else showAll();
if (mosaic.growing) setTimeout(watch, GROWS_MS);
