// The picture of a job: one square a cell, one's own with a ring, so that color is not the only sign.
const CELL = { free: 0, leased: 1, done: 2, ownLeased: 3, ownDone: 4 };

export class Picture {
  #canvas; #drawn = 0; #pending = 0; #picture = null;

  constructor(canvas) {
    this.#canvas = canvas;
    // Colors follow the scheme.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  // Shows a picture; draws at most four times a second and never while hidden.
  show(picture) {
    this.#picture = picture;
    if (document.hidden || this.#pending) return;
    const wait = Math.max(0, this.#drawn + 250 - performance.now());
    this.#pending = setTimeout(() => { this.#pending = 0; this.#draw(); }, wait);
  }

  #draw() {
    if (!this.#picture) return;
    this.#drawn = performance.now();
    const { columns, cells } = this.#picture;
    const rows = Math.ceil(cells.length / columns);
    const canvas = this.#canvas;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const fill = [color("--free"), color("--leased"), color("--done"), color("--leased"), color("--own")];
    const ring = color("--card"), mark = color("--own");
    const side = Math.min(canvas.width / columns, canvas.height / rows);
    const [left, top] = [(canvas.width - side * columns) / 2, (canvas.height - side * rows) / 2];
    const gap = side > 12 ? 2 : side > 5 ? 1 : 0;
    context.clearRect(0, 0, canvas.width, canvas.height);
    cells.forEach((cell, at) => {
      const [x, y] = [left + (at % columns) * side, top + Math.floor(at / columns) * side];
      context.fillStyle = fill[cell] ?? fill[0];
      context.fillRect(x + gap, y + gap, side - 2 * gap, side - 2 * gap);
      if (cell === CELL.ownLeased || cell === CELL.ownDone) {
        const inset = gap + Math.max(1, side / 6);
        context.lineWidth = Math.max(1, side / 10);
        context.strokeStyle = cell === CELL.ownDone ? ring : mark;
        context.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
      }
    });
  }
}

// The picture in words.
export function describe({ cells, accepted, volunteers }) {
  const own = cells.filter((cell) => cell === CELL.ownDone).length;
  const people = volunteers === 1 ? "1 volunteer is" : `${volunteers} volunteers are`;
  return `${Math.round(accepted * 100)} % done, ${own} of ${cells.length} squares hold your work; ${people} at it.`;
}
