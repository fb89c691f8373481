// The tile beside the map: the server's own page of it, put in as nodes and never as text that becomes markup here.

const $ = (id) => document.getElementById(id);
let asked = 0;

export async function openTileAt({ map, run }, { lng, lat }, step, picked) {
  const mine = ++asked;
  const lon = ((((lng + 180) % 360) + 360) % 360) - 180;
  const answer = await fetch(`${map.replace(/\/map$/, "/tile")}?lon=${lon}&lat=${lat}&step=${step}`);
  const found = answer.ok ? await answer.json() : { tile: null };
  if (mine !== asked) return;
  if (found.tile === null) closeTile(() => picked(null));
  else await openTile(run, found.tile, picked);
}

export async function openTile(run, number, picked) {
  const mine = ++asked;
  const answer = await fetch(`${run}/tiles/${number}`, { headers: { Accept: "text/html" } });
  if (!answer.ok || mine !== asked) return;
  const told = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("tile");
  if (mine !== asked || !told) return;
  $("panel-tile").replaceChildren(told);
  $("panel").hidden = false;
  $("panel").scrollTop = 0;
  $("panel").focus({ preventScroll: true });
  const [left, bottom, right, top] = told.dataset.bounds.split(" ").map(Number);
  picked([[left, bottom], [right, top]]);
}

export function closeTile(closed) {
  asked += 1;
  if ($("panel").hidden) return false;
  $("panel").hidden = true;
  closed();
  return true;
}
