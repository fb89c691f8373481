// Put what browsers load into ../static/vendor, with the licences of all that is in it.

import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

const here = import.meta.dirname;
const vendor = join(here, "..", "static", "vendor");

const MAP = join(here, "node_modules", "maplibre-gl", "dist");
const FILES = ["maplibre-gl.mjs", "maplibre-gl-worker.mjs", "maplibre-gl.css"];

async function licence([path, { version, license }]) {
  const folder = join(here, path);
  const name = (await readdir(folder)).find((file) => /^(licen[cs]e|copying)/i.test(file));
  const text = name ? await readFile(join(folder, name), "utf8") : "Its package has no file with the text.\n";
  return `${path.replace(/^.*node_modules\//, "")} ${version} (${license})\n\n${text.trim()}\n`;
}

const lock = JSON.parse(await readFile(join(here, "package-lock.json"), "utf8"));
const inside = Object.entries(lock.packages).filter(([path, about]) => path && !about.dev && !about.optional);
await rm(vendor, { recursive: true, force: true });
await mkdir(vendor, { recursive: true });
await Promise.all(FILES.map((file) => copyFile(join(MAP, file), join(vendor, file))));
await writeFile(join(vendor, "LICENSES.txt"), (await Promise.all(inside.map(licence))).join(`\n${"-".repeat(80)}\n\n`));
