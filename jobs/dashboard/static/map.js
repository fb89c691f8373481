// The live map: pieces drawn by the server, a click that opens a tile, and an address that keeps the place.

import { place, keptPlace } from "./place.js";
import { closeTile, openTile, openTileAt } from "./tile_panel.js";

const LOOK_MS = 3000;
const $ = (id) => document.getElementById(id);
const frame = $("frame");
const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;

async function begin() {
  const library = await import("./vendor/maplibre-gl.mjs");
  const info = await mapInfo();
  frame.hidden = false;
  const kept = keptPlace(info);
  const map = new library.Map({
    container: "map",
    style: styleOf(info, kept),
    ...(kept.centre ? { center: kept.centre, zoom: kept.zoom } : { bounds: info.bounds, fitBoundsOptions: { padding: aroundPanels() } }),
    attributionControl: false,
    dragRotate: false,
    pitchWithRotate: false,
    touchPitch: false,
    fadeDuration: quiet ? 0 : 150,
    maxZoom: Math.max(info.max_zoom + 2, 4),
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new library.NavigationControl({ showCompass: false }), "bottom-right");
  map.addControl(new library.ScaleControl({ maxWidth: 140 }), "bottom-left");
  map.getCanvas().setAttribute("aria-label", "Map. Arrow keys move it, plus and minus zoom, Enter opens the tile in the middle.");
  steer(map, info, kept);
}

// Room for what lies over the map, where there is any to give.
const aroundPanels = () => ({ top: 30, right: 60, bottom: 40, left: frame.clientWidth > 900 ? 260 : 30 });

async function mapInfo() {
  const answer = await fetch(frame.dataset.map);
  if (!answer.ok) throw new Error("the server does not say what the map shows");
  return answer.json();
}

const address = (layer, chosen, version) =>
  new URL(`${frame.dataset.map}/${layer}/${chosen.prompt}/${chosen.step}`, location.href).href +
  `/{z}/{x}/{y}.png?v=${encodeURIComponent(version)}`;

function styleOf(info, chosen) {
  const picture = (layer) => ({
    type: "raster",
    tiles: [address(layer, chosen, info.version)],
    tileSize: 256,
    maxzoom: info.max_zoom,
    bounds: info.bounds,
  });
  const sources = { shown: picture(chosen.layer), picked: { type: "geojson", data: outline(null) } };
  const layers = [{ id: "shown", type: "raster", source: "shown", paint: { "raster-resampling": "nearest" } }];
  if (info.layers.includes("imagery")) {
    sources.imagery = picture("imagery");
    layers.unshift({ id: "imagery", type: "raster", source: "imagery", layout: { visibility: "none" } });
  }
  const line = (id, colour, width) => ({ id, type: "line", source: "picked", paint: { "line-color": colour, "line-width": width } });
  layers.push(line("picked-edge", "#ffffff", 6), line("picked", "#000000", 2.5));
  return { version: 8, sources, layers };
}

function steer(map, info, chosen) {
  const show = () => {
    map.getSource("shown").setTiles([address(chosen.layer, chosen, info.version)]);
    map.getSource("imagery")?.setTiles([address("imagery", chosen, info.version)]);
    underlay(map, chosen);
    note(map, info, chosen);
  };
  for (const input of frame.querySelectorAll("input[name=layer]")) {
    input.checked = input.value === chosen.layer;
    input.addEventListener("change", () => show(Object.assign(chosen, { layer: input.value })));
  }
  $("prompt").value = String(chosen.prompt);
  $("prompt").addEventListener("change", (event) => show(Object.assign(chosen, { prompt: Number(event.target.value) })));
  if ($("step")) {
    $("step").value = String(chosen.step);
    $("step").addEventListener("input", (event) => show(Object.assign(chosen, { step: Number(event.target.value) })));
  }
  $("below")?.addEventListener("change", () => underlay(map, chosen));
  const picked = (bounds, go) => {
    map.getSource("picked")?.setData(outline(bounds));
    if (bounds && go) map.fitBounds(bounds, { padding: 160, maxZoom: info.max_zoom, animate: !quiet });
  };
  map.on("load", () => {
    note(map, info, chosen);
    underlay(map, chosen);
    if (chosen.tile !== null) openTile(frame.dataset.run, chosen.tile, (bounds) => picked(bounds, !chosen.centre));
    frame.dataset.ready = "yes";
  });
  const open = (at) => openTileAt(frame.dataset, at, chosen.step, picked);
  map.on("click", (event) => open(event.lngLat));
  map.on("moveend", () => place(map, chosen));
  map.getCanvas().addEventListener("keydown", (event) => event.key === "Enter" && open(map.getCenter()));
  const close = () => closeTile(() => picked(null)) && map.getCanvas().focus();
  $("close").addEventListener("click", close);
  frame.addEventListener("keydown", (event) => event.key === "Escape" && close());
  setInterval(() => document.hidden || look(info, show), LOOK_MS);
}

// Whether anything has changed since; only then are pieces asked for again.
async function look(info, show) {
  try {
    const now = await mapInfo();
    const changed = now.version !== info.version;
    Object.assign(info, { version: now.version, legend: now.legend });
    if (changed) show();
    say("");
  } catch {
    say("not connected: the map is as it was last");
  }
}

function underlay(map, chosen) {
  if (!map.getLayer("imagery")) return;
  const below = $("below").checked && chosen.layer !== "imagery";
  map.setLayoutProperty("imagery", "visibility", below ? "visible" : "none");
  map.setPaintProperty("shown", "raster-opacity", below ? 0.6 : 1);
}

// Time, legend and address say what is shown.
function note(map, info, chosen) {
  if ($("when")) $("when").textContent = info.steps[chosen.step];
  for (const legend of $("legends").children) legend.hidden = legend.dataset.legend !== chosen.layer;
  redraw($("legends").querySelector(`[data-legend="${CSS.escape(chosen.layer)}"]`), info.legend[chosen.layer] ?? []);
  place(map, chosen);
}

function redraw(legend, lines) {
  const [first] = legend.children;
  if (!first) return;
  const rows = lines.map(([colour, meaning]) => {
    const row = first.cloneNode(true);
    row.querySelector("rect").setAttribute("fill", colour);
    row.lastChild.nodeValue = ` ${meaning}`;
    return row;
  });
  legend.replaceChildren(...rows);
}

function outline(bounds) {
  if (!bounds) return { type: "FeatureCollection", features: [] };
  const [[left, bottom], [right, top]] = bounds;
  const ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]];
  return { type: "Feature", properties: {}, geometry: { type: "LineString", coordinates: ring } };
}

function say(text) {
  $("notice").hidden = text === "";
  $("notice").textContent = text;
}

// A browser that cannot draw it gets what browsers without scripts get.
begin().catch(() => {
  frame.hidden = true;
  const plain = new DOMParser().parseFromString($("plain").textContent, "text/html");
  $("plain").after(...plain.body.children);
});
