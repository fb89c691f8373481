// The map's place in the address: #zoom/lat/lon/layer/prompt/step, and the tile that is open.

export function place(map, chosen) {
  const { lng, lat } = map.getCenter();
  const zoom = map.getZoom();
  const places = Math.max(3, Math.ceil(zoom / 3));
  const parts = [zoom.toFixed(2), lat.toFixed(places), lng.toFixed(places), chosen.layer, chosen.prompt, chosen.step];
  history.replaceState(null, "", `#${parts.join("/")}`);
}

// What an address that was kept asks for; what it does not say, or what is not there, is as at the beginning.
export function keptPlace(info) {
  const kept = { layer: info.layers[0], prompt: 0, step: info.steps.length - 1, tile: null, centre: null, zoom: 0 };
  const hash = location.hash.slice(1);
  const tile = /^tile=(\d+)$/.exec(hash);
  if (tile) return { ...kept, tile: Number(tile[1]) };
  const [zoom, lat, lon, layer, prompt, step] = hash.split("/");
  const [z, y, x] = [zoom, lat, lon].map(Number.parseFloat);
  if ([z, y, x].every(Number.isFinite) && Math.abs(y) <= 85 && Math.abs(x) <= 180) Object.assign(kept, { centre: [x, y], zoom: z });
  if (info.layers.includes(layer)) kept.layer = layer;
  if (Number(prompt) in info.prompts) kept.prompt = Number(prompt);
  if (Number(step) in info.steps) kept.step = Number(step);
  return kept;
}
