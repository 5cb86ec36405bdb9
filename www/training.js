// The training run that this relay holds: the curve of its loss, and how far it is. Public figures, over plain HTTP:
// nothing of the engine is needed for it.

import * as format from "./format.js";

/** The relay holds an answer back until a round is closed, at most for so long. */
const WAIT_MS = 20_000;
/** Pause between two looks while no run goes on. */
const LOOK_MS = 15_000;
/** Longest pause while the relay does not answer. */
const MAX_AWAY_MS = 120_000;
/** Points of a curve; of longer runs some rounds are left out. */
const MAX_POINTS = 300;
/** Rounds whose duration says how much time is left. */
const RECENT = 5;

/** The drawing, in its own units. */
const WIDTH = 640;
const HEIGHT = 250;
const EDGE = { left: 46, right: 14, top: 14, bottom: 34 };
/** Lines of the grid. */
const ROWS = 4;

const SERIES = [
  { field: "train_loss", name: "train" },
  { field: "validation_loss", name: "validation" },
];

const at = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function get(path) {
  const answer = await fetch(path, { credentials: "omit" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Nobody looks at a hidden page. */
function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/** The newest run that goes on, else the newest that was not given up. */
async function newest() {
  const runs = await get("/api/v1/runs");
  const run = runs.find(({ state }) => state === "running") ?? runs.find(({ state }) => state !== "canceled");
  return run ? get(`/api/v1/runs/${run.id}`) : null;
}

/** Follows the relay's run for as long as the page is there. */
export async function follow() {
  let run = null;
  let failures = 0;
  for (;;) {
    await visible();
    try {
      const goesOn = run?.state === "running";
      run = goesOn ? await get(`/api/v1/runs/${run.id}?wait_ms=${WAIT_MS}&seen_round=${run.round}`) : await newest();
      show(run);
      failures = 0;
      if (run?.state !== "running") await sleep(LOOK_MS);
    } catch {
      failures += 1;
      await sleep(Math.min(MAX_AWAY_MS, 1000 * 2 ** failures));
    }
  }
}

function text(id, value) {
  const element = at(id);
  if (element.textContent !== value) element.textContent = value;
}

const loss = (value) => value.toFixed(3);

function show(run) {
  at("training").hidden = !run;
  if (!run) return;
  const { history } = run;
  document.body.dataset.trainingRound = run.round;
  text("training-title", `Training “${run.name}”`);
  text("training-state", state(run));
  text("training-round", `${format.count(run.round)} of ${format.count(run.rounds)}`);
  text("training-workers", run.state === "running" ? format.count(run.workers) : "none");
  text("training-tokens", format.count(history.reduce((sum, round) => sum + round.tokens, 0)));
  text("training-left", left(run));
  const last = history.at(-1);
  text("training-train", last ? loss(last.train_loss) : "after the first round");
  text("training-validation", last ? loss(last.validation_loss) : "after the first round");
  // SVG elements have no property for it.
  at("training-chart").toggleAttribute("hidden", history.length < 2);
  if (history.length > 1) draw(at("training-chart"), history);
}

function state(run) {
  const kind = run.model === "digits" ? "classifier of handwritten digits" : "language model";
  const size = `a ${kind} with ${format.count(run.parameters)} parameters`;
  if (run.state === "done") return `${size}: done.`;
  if (run.state === "paused") return `${size}: paused. ${run.reason ?? ""}`;
  if (run.state !== "running") return `${size}: ${run.state}.`;
  const words = {
    gathering: `waits for ${run.min_workers === 1 ? "a volunteer" : `${run.min_workers} volunteers`}.`,
    open: "volunteers compute this round.",
    auditing: "the relay checks this round’s updates.",
    closing: "the relay combines this round’s updates.",
  };
  return `${size}: ${words[run.phase] ?? "the next round is prepared."}`;
}

function left({ state, round, rounds, history }) {
  if (state !== "running") return state === "done" ? "none" : "unknown";
  const recent = history.slice(-RECENT);
  if (!recent.length) return "unknown";
  const seconds = recent.reduce((sum, one) => sum + one.seconds, 0) / recent.length;
  return `about ${format.time(seconds * (rounds - round))}`;
}

function node(name, attributes, words) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (words !== undefined) element.textContent = words;
  return element;
}

/** Draws both losses over the rounds. */
function draw(svg, history) {
  const stride = Math.ceil(history.length / MAX_POINTS);
  const rounds = history.filter((_, index) => (history.length - 1 - index) % stride === 0);
  const values = rounds.flatMap((round) => SERIES.map(({ field }) => round[field]));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(high - low, 1e-3) * 0.06;
  const [bottom, top] = [low - room, high + room];
  const [first, last] = [rounds[0].round, rounds.at(-1).round];
  const x = (round) => EDGE.left + ((round - first) / Math.max(1, last - first)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + ((top - value) / (top - bottom)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const parts = [];
  for (let row = 0; row <= ROWS; row += 1) {
    const value = bottom + ((top - bottom) * row) / ROWS;
    parts.push(node("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }));
    parts.push(node("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  const below = HEIGHT - EDGE.bottom + 20;
  parts.push(node("text", { x: EDGE.left, y: below }, `round ${format.count(first + 1)}`));
  parts.push(node("text", { x: WIDTH - EDGE.right, y: below, "text-anchor": "end" }, format.count(last + 1)));
  for (const { field, name } of SERIES) {
    const points = rounds.map((round) => `${x(round.round).toFixed(1)},${y(round[field]).toFixed(1)}`);
    parts.push(node("polyline", { class: name, points: points.join(" "), "data-values": rounds.map((r) => r[field]).join(" ") }));
    parts.push(node("circle", { class: name, cx: x(last), cy: y(rounds.at(-1)[field]), r: 4 }));
  }
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const [from, to] = [rounds[0].validation_loss, rounds.at(-1).validation_loss].map(loss);
  const words = `Loss in nats over ${format.count(history.length)} rounds. On validation data it went from ${from} to ${to}.`;
  svg.setAttribute("aria-label", words);
  svg.replaceChildren(...parts);
}
