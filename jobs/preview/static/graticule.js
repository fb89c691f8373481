// What makes it a map though the sea be empty: meridians and parallels at round degrees, a scale, a middle.

import { EARTH_M, latOf, lonOf, xOf, yOf } from "./places.js";

function niceStep(atLeast) {
  const steps = [30, 15, 10, 5, 2, 1, 30 / 60, 15 / 60, 10 / 60, 5 / 60, 2 / 60, 1 / 60];
  const seconds = [30, 15, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01].map((second) => second / 3600);
  return [...steps, ...seconds].filter((step) => step >= atLeast).at(-1) ?? 30;
}

// Draw it between two corners of the view, and give the labels that belong on top of everything: text, x, y, align.
export function graticule(pen, look, [x0, y0], [x1, y1], worldPx) {
  const [width, height] = [(x1 - x0) * worldPx, (y1 - y0) * worldPx];
  const step = niceStep((130 / worldPx) * 360);
  const labels = [];
  pen.strokeStyle = look.getPropertyValue("--grid");
  pen.lineWidth = 1;
  pen.beginPath();
  for (let lon = Math.ceil(lonOf(x0) / step) * step; lon <= lonOf(x1); lon += step) {
    const px = Math.round((xOf(lon) - x0) * worldPx) + 0.5;
    pen.moveTo(px, 0);
    pen.lineTo(px, height);
    labels.push([degrees(((((lon + 180) % 360) + 360) % 360) - 180, "E", "W", step), px + 5, height - 8]);
  }
  const south = latOf(Math.min(1, y1));
  for (let lat = Math.ceil(south / step) * step; lat <= latOf(Math.max(0, y0)); lat += step) {
    const py = Math.round((yOf(lat) - y0) * worldPx) + 0.5;
    pen.moveTo(0, py);
    pen.lineTo(width, py);
    labels.push([degrees(lat, "N", "S", step), width - (py < 170 ? 66 : 8), py - 6, "right"]); // beside the buttons
  }
  pen.stroke();
  return labels;
}

export function writeLabels(pen, look, labels) {
  pen.font = "11px system-ui, sans-serif";
  pen.lineWidth = 3;
  pen.strokeStyle = look.getPropertyValue("--paper");
  pen.fillStyle = look.getPropertyValue("--grid-ink");
  for (const [text, px, py, align] of labels) {
    pen.textAlign = align ?? "left";
    pen.strokeText(text, px, py);
    pen.fillText(text, px, py);
  }
}

function degrees(value, plus, minus, step) {
  const whole = Math.round(Math.abs(value) * 360_000) / 360_000;
  const letter = whole === 0 ? "" : ` ${value < 0 ? minus : plus}`;
  const degree = Math.floor(whole + 1e-9);
  const minutes = (whole - degree) * 60;
  const minute = Math.floor(minutes + 1e-7);
  if (step >= 1) return `${degree}°${letter}`;
  if (step >= 1 / 60 - 1e-9) return `${degree}° ${String(Math.round(minutes)).padStart(2, "0")}′${letter}`;
  const places = step * 3600 >= 1 ? 0 : step * 3600 >= 0.1 ? 1 : 2;
  return `${degree}° ${String(minute).padStart(2, "0")}′ ${Math.abs((minutes - minute) * 60).toFixed(places).padStart(places ? places + 3 : 2, "0")}″${letter}`;
}

// Where Enter reads, for people who steer by keyboard.
export function crosshair(pen, look, width, height) {
  pen.strokeStyle = look.getPropertyValue("--ink");
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    pen.moveTo(width / 2 + 4 * dx, height / 2 + 4 * dy);
    pen.lineTo(width / 2 + 14 * dx, height / 2 + 14 * dy);
  }
  pen.stroke();
}

// A round length on the ground in the middle of the view.
export function scaleBar(y, worldPx) {
  const metresPerPx = (EARTH_M * Math.cos((latOf(y) * Math.PI) / 180)) / worldPx;
  const widest = 140 * metresPerPx;
  const power = 10 ** Math.floor(Math.log10(widest));
  const length = [5, 2, 1].map((unit) => unit * power).find((metres) => metres <= widest);
  document.getElementById("bar").style.width = `${length / metresPerPx}px`;
  const said = length >= 1000 ? `${length / 1000} km` : length >= 1 ? `${length} m` : `${Number((length * 100).toPrecision(1))} cm`;
  document.getElementById("length").textContent = said;
}
