// Lines over rounds, as SVG: styled by the page, readable at any size, and in words for who cannot see it.

/** Points of a line; of longer series some are left out, the last never. */
const MAX_POINTS = 300;

/** The drawing's height and, where nothing is said of it, its width: in CSS pixels, so that its words are as large as the page's. */
const WIDTH = 640;
const HEIGHT = 250;
/** Narrower than this nothing could be told apart. */
const LEAST_WIDTH = 260;
const EDGE = { left: 56, right: 14, top: 14, bottom: 34 };
/** Lines of the grid. */
const ROWS = 4;

function node(name, attributes, words) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (words !== undefined) element.textContent = words;
  return element;
}

/**
 * Draws lines into an `svg`.
 * @param {SVGElement} svg
 * @param {{xs: number[], series: {name: string, values: number[]}[], first: string, last: string, number: (value: number) => string,
 *   words: string, fromZero?: boolean, width?: number}} chart `first` and `last` are written below the ends, `number` writes a value at the grid, and
 *   `words` says what is to be seen.
 */
export function lines(svg, { xs, series, first, last, number, words, fromZero = false, width: across = WIDTH }) {
  const width = Math.max(LEAST_WIDTH, Math.round(across) || WIDTH);
  const stride = Math.ceil(xs.length / MAX_POINTS);
  const kept = xs.map((_, index) => index).filter((index) => (xs.length - 1 - index) % stride === 0);
  const values = series.flatMap((one) => kept.map((index) => one.values[index]));
  const low = fromZero ? 0 : Math.min(...values);
  const high = Math.max(...values);
  const room = Math.max(high - low, Math.abs(high) * 1e-3, 1e-9) * 0.06;
  const [bottom, top] = [fromZero ? 0 : low - room, high + room];
  const [from, to] = [xs[kept[0]], xs[kept.at(-1)]];
  const x = (value) => EDGE.left + ((value - from) / Math.max(1, to - from)) * (width - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + ((top - value) / (top - bottom)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const parts = [];
  for (let row = 0; row <= ROWS; row += 1) {
    const value = bottom + ((top - bottom) * row) / ROWS;
    parts.push(node("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }));
    parts.push(node("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  const below = HEIGHT - EDGE.bottom + 20;
  parts.push(node("text", { x: EDGE.left, y: below }, first));
  parts.push(node("text", { x: width - EDGE.right, y: below, "text-anchor": "end" }, last));
  for (const { name, values: all } of series) {
    const points = kept.map((index) => `${x(xs[index]).toFixed(1)},${y(all[index]).toFixed(1)}`);
    parts.push(node("polyline", { class: name, points: points.join(" "), "data-values": kept.map((index) => all[index]).join(" ") }));
    parts.push(node("circle", { class: name, cx: x(to), cy: y(all[kept.at(-1)]), r: 4 }));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words);
  svg.replaceChildren(...parts);
}

/** A new, empty drawing for [`lines`]. */
export const canvas = () => node("svg", { class: "chart" });
