// Positions are shares of Web Mercator's square: x eastwards and y southwards, from 0 to 1.

export const TILE = 256;
export const EARTH_M = 40_075_016.686;

export const lonOf = (x) => x * 360 - 180;
export const latOf = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;
export const xOf = (lon) => lon / 360 + 0.5;
export const yOf = (lat) => 0.5 - Math.asinh(Math.tan((Math.max(-85.05, Math.min(85.05, lat)) * Math.PI) / 180)) / (2 * Math.PI);
