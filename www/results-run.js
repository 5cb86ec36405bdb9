// A run: its loss, how fast it goes, what it sends, who contributed, what was refused, and what it came to.

import { canvas, lines } from "./chart.js";
import * as format from "./format.js";
import { at, code, facts, fill, h, table } from "./page.js";
import { BACKENDS, STATES } from "./project.js";
import { publicJson } from "./tokens.js";

/** The relay holds an answer back until a round is closed, at most for so long. */
const WAIT_MS = 20_000;
/** Rounds of the table; the API has all. */
const MAX_ROUNDS = 50;

/** Room that a panel's edges take, in CSS pixels. */
const PANEL_EDGES = 50;

/** What was shown last. */
let last = { id: null, seen: 0 };

/** Shows it again, at another width. */
let again = () => {};
addEventListener("resize", () => {
  if (document.body.dataset.shown === last.id) again();
});

export async function showRun(id, isCurrent) {
  const waits = last.id === id && last.running;
  const query = waits ? `?wait_ms=${WAIT_MS}&seen_round=${last.seen}` : "";
  const run = await publicJson(`/api/v1/runs/${id}${query}`);
  const [who, candidates] = await Promise.all([
    publicJson(`/api/v1/runs/${id}/contributors`), publicJson("/api/v1/candidates"),
  ]);
  if (!isCurrent()) return 0;
  last = { id, running: run.state === "running", seen: run.round };
  again = () => show(run, who, candidates.filter((one) => one.run === id));
  again();
  document.body.dataset.shown = id;
  document.body.dataset.round = run.round;
  return run.state === "running" ? 500 : null;
}

const sum = (history, field) => history.reduce((all, round) => all + round[field], 0);

function show(run, who, candidates) {
  const { history } = run;
  const done = run.state === "done";
  document.title = `${run.name} · Potluck`;
  at("title").textContent = run.name || "unnamed";
  const seconds = sum(history, "seconds");
  const tokens = sum(history, "tokens");
  fill(at("facts"),
    h("section", { class: "panel" },
      h("p", null, h("span", { class: `tag ${done ? "passed" : run.state === "running" ? "open" : "stopped"}` }, STATES[run.state] ?? run.state),
        run.reason ? ` ${run.reason}` : null),
      h("progress", { max: Math.max(1, run.rounds), value: run.round, "aria-label": `${run.round} of ${run.rounds} rounds` }),
      facts(
        ["Rounds", `${format.count(run.round)} of ${format.count(run.rounds)}`],
        ["Model", run.model === "digits" ? "classifier of handwritten digits" : "language model", `, ${format.count(run.parameters)} parameters`,
          run.model_name ? [", for ", h("a", { href: `/models.html#model=${encodeURIComponent(run.model_name)}` }, run.model_name)] : null],
        ["At work now", run.state === "running" ? format.count(run.workers) : "nobody"],
        ["Trained on", `${format.count(tokens)} tokens`, seconds > 0 ? `, ${format.count(tokens / seconds)} a second` : null],
        ["From volunteers", format.bytes(sum(history, "upload_bytes"))], ["To volunteers", format.bytes(sum(history, "download_bytes"))],
        ["Replayed by the relay", `${format.count(who.audited)} of ${format.count(who.updates)} updates`],
        ["Refused updates", format.count(sum(history, "rejected"))],
        ["Its request", h("a", { href: `/api/v1/runs/${run.id}/request` }, "as it was submitted")],
        run.round ? ["Parameters", h("a", { href: `/api/v1/runs/${run.id}/rounds/${run.round}/parameters`, download: `${run.id}.f32` }, `after ${run.round} rounds, f32`)] : null,
      )),
    history.length > 1 ? charts(history) : h("p", { class: "empty panel" }, "The curves come after the second round."),
    h("section", { class: "panel" }, h("h2", null, "Contributors"),
      who.contributors.length
        ? table("Updates of closed rounds", ["Volunteer", "With", "Counted", "Weight", "Replayed", "Refused", "Sent"], who.contributors.map((one) => [
          code(one.volunteer, 8), BACKENDS[one.backend] ?? one.backend, format.count(one.accepted), one.weight.toFixed(2),
          format.count(one.audited), format.count(one.refused), format.bytes(one.bytes)]))
        : h("p", { class: "empty" }, "No round is closed yet.")),
    who.refusals.length ? h("section", { class: "panel" }, h("h2", null, "Refused updates"),
      table("Refused updates by reason", ["Reason", "Count"], who.refusals.map((one) => [one.reason, format.count(one.count)]))) : null,
    h("section", { class: "panel" }, h("h2", null, "Candidates"),
      candidates.length
        ? table("Candidates of this run", ["Candidate", "Round", "Model", "Evaluation"], candidates.map((one) => [
          code(one.parameters), format.count(one.round + 1), h("a", { href: `/models.html#model=${encodeURIComponent(one.model)}` }, one.model),
          one.card ? h("a", { href: `/api/v1/blobs/${one.card}` }, "eval card") : one.reason ? `failed: ${one.reason}`
            : one.progress ? `${one.progress.done} of ${one.progress.shards} parts` : one.state]))
        : h("p", { class: "empty" }, run.model_name
          ? "None of its parameters were put forward for the model yet."
          : "It trains no model that people decide about.")),
    history.length ? h("details", { class: "panel", "data-name": "rounds" }, h("summary", null, "Figures of each round"), rounds(history)) : null);
}

const rate = (round) => (round.seconds > 0 ? round.tokens / round.seconds : 0);

function rounds(history) {
  const shown = history.slice(-MAX_ROUNDS).reverse();
  return [
    history.length > shown.length ? h("p", { class: "hint" }, `The last ${shown.length}; the API has all.`) : null,
    table("Closed rounds, the newest first", ["Round", "Validation loss", "Training loss", "Tokens/s", "Sent", "Received", "Counted", "Refused"], shown.map((round) => [
      format.count(round.round + 1), round.validation_loss.toFixed(4), round.train_loss.toFixed(4), format.count(rate(round)),
      format.bytes(round.download_bytes), format.bytes(round.upload_bytes), format.count(round.workers), format.count(round.rejected)])),
  ];
}

function charts(history) {
  const ends = { xs: history.map(({ round }) => round), first: `round ${format.count(history[0].round + 1)}`, last: format.count(history.at(-1).round + 1) };
  // Where each will be as wide as the page, or half of it.
  const whole = at("facts").clientWidth - PANEL_EDGES;
  const width = matchMedia("(min-width: 54rem)").matches ? { wide: whole, half: whole / 2 - PANEL_EDGES } : { wide: whole, half: whole };
  const of = (title, legend, chart) => {
    const drawing = canvas();
    lines(drawing, { ...ends, ...chart, width: width[chart.size ?? "half"] });
    return h("section", { class: "panel chart-panel" }, h("h2", null, title), drawing,
      h("ul", { class: "training-legend" }, legend.map(([name, label]) => h("li", { class: name }, label))));
  };
  const column = (value) => history.map(value);
  const [from, to] = [history[0], history.at(-1)];
  const sent = [sum(history, "download_bytes"), sum(history, "upload_bytes")].map(format.bytes);
  return h("div", { class: "columns charts" },
    of("Loss", [["validation", `on validation data: ${to.validation_loss.toFixed(3)} nats`], ["train", `on training data: ${to.train_loss.toFixed(3)}`]], {
      series: [{ name: "train", values: column((round) => round.train_loss) }, { name: "validation", values: column((round) => round.validation_loss) }],
      size: "wide", number: (value) => value.toFixed(2),
      words: `Loss in nats a token. On validation data it went from ${from.validation_loss.toFixed(3)} to ${to.validation_loss.toFixed(3)}.`,
    }),
    of("Throughput", [["validation", "tokens a second"]], {
      series: [{ name: "validation", values: column(rate) }], fromZero: true,
      number: (value) => format.count(value),
      words: `Tokens a second in each round: ${format.count(rate(from))} in the first, ${format.count(rate(to))} in the last.`,
    }),
    of("Data", [["validation", "to volunteers"], ["train", "from volunteers"]], {
      series: [{ name: "validation", values: column((round) => round.download_bytes) }, { name: "train", values: column((round) => round.upload_bytes) }],
      fromZero: true, number: (value) => format.bytes(value),
      words: `Bytes in each round; in all ${sent[0]} went to volunteers and ${sent[1]} came from them.`,
    }));
}
