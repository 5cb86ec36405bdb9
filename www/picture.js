// The picture of a job: one cell for each part of the result. Cells differ by form as well as by color.

/** What the relay's cells mean, in its order (`potluck_proto::cell`). */
export const CELLS = [
  { name: "free", label: "not begun" },
  { name: "leased", label: "begun" },
  { name: "accepted", label: "verified" },
  { name: "mine", label: "yours, begun" },
  { name: "done", label: "yours, verified" },
];

/** How many cells of each kind there are. */
export function tally(cells) {
  const counts = CELLS.map(() => 0);
  for (const cell of cells) if (cell < counts.length) counts[cell] += 1;
  return counts;
}

/** The picture in words. */
export function describe({ name, cells, accepted, volunteers }) {
  const counts = tally(cells);
  const people = volunteers === 1 ? "1 volunteer" : `${volunteers} volunteers`;
  return `Job “${name}”: ${Math.floor(accepted * 100)} % verified, ${people} computing. ` +
    `Of ${cells.length} parts, yours are ${counts[4]} verified and ${counts[3]} begun.`;
}

/** Draws a picture into a canvas, at the size that the canvas has on the page. */
export function draw(canvas, { columns, cells }) {
  const rows = Math.ceil(cells.length / columns);
  const box = canvas.getBoundingClientRect();
  if (!rows || box.width < 1) return;
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(box.width * scale);
  const height = Math.round(box.height * scale);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const colors = palette(canvas);
  const side = Math.max(1, Math.floor(Math.min(width / columns, height / rows)));
  const left = Math.floor((width - side * columns) / 2);
  const top = Math.floor((height - side * rows) / 2);
  const gap = side >= 8 * scale ? Math.max(1, Math.round(side / 12)) : side >= 3 ? 1 : 0;
  cells.forEach((cell, index) => {
    const x = left + (index % columns) * side;
    const y = top + Math.floor(index / columns) * side;
    paint(context, CELLS[cell]?.name ?? "free", x, y, side - gap, colors);
  });
}

/** One example cell, for the legend. */
export function sample(canvas, kind) {
  draw(canvas, { columns: 1, cells: [CELLS.findIndex(({ name }) => name === kind)] });
}

function palette(canvas) {
  const style = getComputedStyle(canvas);
  const color = (name) => style.getPropertyValue(name).trim();
  return {
    free: color("--cell-free"),
    other: color("--cell-other"),
    mine: color("--cell-mine"),
    mark: color("--cell-mark"),
  };
}

function paint(context, kind, x, y, side, colors) {
  const line = Math.max(1, side / 9);
  switch (kind) {
    case "leased": // a half-filled cell
      fill(context, colors.free, x, y, side);
      triangle(context, colors.other, x, y, side);
      break;
    case "accepted": // a filled cell
      fill(context, colors.other, x, y, side);
      break;
    case "mine": // a frame around a half-filled cell
      fill(context, colors.free, x, y, side);
      triangle(context, colors.mine, x, y, side);
      frame(context, colors.mine, x, y, side, line);
      break;
    case "done": // a filled cell with a mark
      fill(context, colors.mine, x, y, side);
      mark(context, colors.mark, x, y, side, line);
      break;
    default:
      fill(context, colors.free, x, y, side);
  }
}

function fill(context, color, x, y, side) {
  context.fillStyle = color;
  context.beginPath();
  if (side >= 10) context.roundRect(x, y, side, side, Math.min(side / 6, 8));
  else context.rect(x, y, side, side);
  context.fill();
}

function triangle(context, color, x, y, side) {
  const inset = side >= 10 ? side / 10 : 0;
  context.fillStyle = color;
  context.beginPath();
  context.moveTo(x + inset, y + side - inset);
  context.lineTo(x + side - inset, y + side - inset);
  context.lineTo(x + side - inset, y + inset);
  context.fill();
}

function frame(context, color, x, y, side, line) {
  context.strokeStyle = color;
  context.lineWidth = line;
  context.strokeRect(x + line / 2, y + line / 2, side - line, side - line);
}

function mark(context, color, x, y, side, line) {
  context.fillStyle = color;
  if (side < 10) {
    const dot = Math.max(1, Math.round(side / 3));
    context.fillRect(x + Math.floor((side - dot) / 2), y + Math.floor((side - dot) / 2), dot, dot);
    return;
  }
  context.strokeStyle = color;
  context.lineWidth = line;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.beginPath();
  context.moveTo(x + side * 0.28, y + side * 0.54);
  context.lineTo(x + side * 0.44, y + side * 0.7);
  context.lineTo(x + side * 0.74, y + side * 0.34);
  context.stroke();
}
