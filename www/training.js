// The training run that this relay holds: the curve of its loss, and how far it is. Public figures, over plain HTTP:
// nothing of the engine is needed for it.

import { lines } from "./chart.js";
import * as format from "./format.js";

/** The relay holds an answer back until a round is closed, at most for so long. */
const WAIT_MS = 20_000;
/** Pause between two looks while no run goes on. */
const LOOK_MS = 15_000;
/** Longest pause while the relay does not answer. */
const MAX_AWAY_MS = 120_000;
/** Pause between two samples of what the model writes: the relay makes no new one sooner either. */
const SAMPLE_MS = 20_000;
/** Longest sample that is shown, in characters. */
const SAMPLE_CHARACTERS = 600;
/** Rounds whose duration says how much time is left. */
const RECENT = 5;

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
      sample(run).catch(() => {});
      failures = 0;
      if (run?.state !== "running") await sleep(LOOK_MS);
    } catch {
      failures += 1;
      await sleep(Math.min(MAX_AWAY_MS, 1000 * 2 ** failures));
    }
  }
}

/** The run and the round of the sample that is shown, and when another may be asked for. */
let sampled = { run: "", round: -1, again: 0 };

/** Shows some lines of what a language model writes so far. */
async function sample(run) {
  if (run?.id !== sampled.run) {
    sampled = { run: run?.id ?? "", round: -1, again: 0 };
    at("training-sample").hidden = true;
  }
  if (!run?.round || run.model === "digits" || run.round === sampled.round || Date.now() < sampled.again) return;
  sampled.again = Date.now() + SAMPLE_MS;
  const answer = await fetch(`/api/v1/runs/${run.id}/sample`, { credentials: "omit" });
  if (sampled.run !== run.id) return;
  // Its model writes no text: that stays so.
  if (answer.status === 422) sampled.again = Infinity;
  if (!answer.ok) return;
  const written = await answer.json();
  sampled.round = written.round;
  text("training-sample-round", written.round === 1
    ? "What it writes after the first round"
    : `What it writes after ${format.count(written.round)} rounds`);
  text("training-sample-text", `${written.prompt}${written.text}`.slice(0, SAMPLE_CHARACTERS));
  at("training-sample").hidden = false;
}

function text(id, value) {
  const element = at(id);
  if (element.textContent !== value) element.textContent = value;
}

const loss = (value) => format.decimal(value, 3);

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

/** Draws both losses over the rounds. */
function draw(svg, history) {
  const [from, to] = [history[0].validation_loss, history.at(-1).validation_loss].map(loss);
  lines(svg, {
    width: svg.getBoundingClientRect().width,
    xs: history.map(({ round }) => round),
    series: SERIES.map(({ field, name }) => ({ name, values: history.map((round) => round[field]) })),
    first: `round ${format.count(history[0].round + 1)}`,
    last: format.count(history.at(-1).round + 1),
    number: (value) => format.decimal(value, 2),
    words: `Loss in nats over ${format.count(history.length)} rounds. On validation data it went from ${from} to ${to}.`,
  });
}
