// Results: jobs for whoever has the submitter's token, runs for everybody. The address says what is shown.

import { showJob } from "./results-job.js";
import { showRun } from "./results-run.js";
import * as format from "./format.js";
import { at, fill, h, moment, table } from "./page.js";
import { STATES } from "./project.js";
import { Token, publicJson, sleep, visible } from "./tokens.js";

/** Pause between two looks at the lists. */
const LOOK_MS = 5000;
/** Longest pause while the relay does not answer. */
const MAX_AWAY_MS = 120_000;
/** Jobs and runs of a list; older ones are for the API. */
const MAX_LISTED = 100;

const token = new Token("potluck.submitter", () => wake());
token.listen(at("token-form"), "token", "token-note");
at("forget").addEventListener("click", () => {
  token.forget();
  at("token").focus();
});

/** Wakes who waits for the next look. */
let wake = () => {};
/** Counts what was asked for: an answer to an older question is not shown. */
let asked = 0;

/** What the address names: `{kind, id}`; `null` for the lists. */
function place() {
  const [, kind, id] = location.hash.match(/^#(job|run)=([0-9a-f]{32})$/) ?? [];
  return kind ? { kind, id } : null;
}

const state = (name) => h("span", { class: `tag ${name === "running" ? "open" : name === "done" ? "passed" : "stopped"}` }, STATES[name] ?? name);

const part = (progress, done) => (done ? "all" : progress ? format.percent(progress.accepted / Math.max(1, progress.units)) : "unknown");

async function lists() {
  const runs = await publicJson("/api/v1/runs");
  fill(at("runs"), runs.length
    ? table("List of runs", ["Run", "State", "Rounds", "Parameters"], runs.slice(0, MAX_LISTED).map((run) => [
      h("a", { href: `#run=${run.id}` }, run.name || "unnamed"), state(run.state),
      `${format.count(run.round)} of ${format.count(run.rounds)}`, format.count(run.parameters)]))
    : h("p", { class: "empty" }, "No run was submitted to this relay."));
  at("enter").hidden = token.known;
  at("mine").hidden = !token.known;
  if (!token.known) return;
  const jobs = await token.json("/api/v1/jobs");
  fill(at("jobs"), jobs.length
    ? table("List of jobs", ["Job", "State", "Verified", "Shape", "Since"], jobs.slice(0, MAX_LISTED).map((job) => [
      h("a", { href: `#job=${job.id}` }, job.name), state(job.state), part(job.progress, job.state === "done"),
      `${format.count(job.m)} × ${format.count(job.k)} × ${format.count(job.n)}`, moment(job.created_ms)]))
    : h("p", { class: "empty" }, "No job was submitted to this relay."));
}

/** Shows one view until the address, the token or the relay says otherwise. */
async function look(here, isCurrent) {
  const one = here !== null;
  at("lists").hidden = one;
  at("one").hidden = !one;
  at("problem").hidden = true;
  document.body.dataset.view = one ? here.kind : "lists";
  if (!one) {
    document.title = "Results · Potluck";
    await lists();
    return LOOK_MS;
  }
  at("enter-job").hidden = here.kind !== "job" || token.known;
  if (here.kind === "job") return token.known ? showJob(here.id, token, isCurrent) : null;
  return showRun(here.id, isCurrent);
}

let failures = 0;
let shown = null;
async function follow() {
  for (;;) {
    await visible();
    const mine = (asked += 1);
    const here = place();
    const isCurrent = () => mine === asked;
    if (shown !== location.hash) {
      shown = location.hash;
      fill(at("facts"));
      fill(at("refused"));
      at("parts").hidden = true;
      at("title").textContent = here ? "Asking the relay" : "";
      document.body.dataset.shown = "";
    }
    let pause = null;
    try {
      // Whoever leaves a view does not wait for its answer.
      pause = await Promise.race([look(here, isCurrent), new Promise((resolve) => { wake = () => resolve(0); })]);
      failures = 0;
    } catch (error) {
      failures += 1;
      pause = Math.min(MAX_AWAY_MS, 1000 * 2 ** failures);
      if (isCurrent()) {
        at("problem").hidden = false;
        at("problem").textContent = `The relay says: ${error.message}.`;
        at("title").textContent = here ? "This cannot be shown" : "";
      }
    }
    const waits = pause === null ? [] : [sleep(pause)];
    if (pause !== 0) await Promise.race([...waits, new Promise((resolve) => { wake = resolve; })]);
  }
}

addEventListener("hashchange", () => {
  asked += 1;
  wake();
  scrollTo(0, 0);
  (place() ? at("title") : at("lists").querySelector("h1")).focus();
});
follow();
