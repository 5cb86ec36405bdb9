// A job as its submitter sees it: how far it is, who computed which part, what was refused, what checking cost, and the
// result.

import * as format from "./format.js";
import { at, code, facts, fill, h, moment, table } from "./page.js";
import { draw } from "./picture.js";
import { BACKENDS, STATES } from "./project.js";

/** The relay holds an answer back until something changes, at most for so long. */
const WAIT_MS = 20_000;
/** Results beyond this are better fetched by the command, which goes on where it was cut off. */
const MAX_DOWNLOAD_BYTES = 1e9;
/** Bytes of an element of the result. */
const ELEMENT_BYTES = 4;
/** What stands in a map. */
const NOTHING = -2;
const SOME = -1;
/** The same in a picture: see `picture.js`. */
const CELL = { free: 0, leased: 1, accepted: 2, lit: 4 };

const REASONS = {
  wrong_length: "wrong length", wrong_hash: "not what was committed", wrong_product: "wrong product", not_delivered: "not delivered",
};

/** What was shown last: whoever computes further units changes it. */
let last = { id: null, seen: 0 };
/** Whose parts are lit. */
let lit = null;

export async function showJob(id, token, isCurrent) {
  const again = last.id === id && last.running;
  const query = again ? `?wait_ms=${WAIT_MS}&seen=${last.seen}` : "";
  const job = await token.json(`/api/v1/jobs/${id}${query}`);
  const map = await token.json(`/api/v1/jobs/${id}/map`);
  if (!isCurrent()) return 0;
  if (last.id !== id) lit = null;
  last = { id, running: job.state === "running", seen: job.progress?.accepted ?? 0 };
  show(job, map, token);
  document.body.dataset.shown = id;
  // What runs is asked for at once: the relay waits for news. What has ended stays as it is.
  return job.state === "running" ? 500 : null;
}

function show(job, map, token) {
  const done = job.state === "done";
  document.title = `${job.name} · Potluck`;
  at("title").textContent = job.name;
  const units = job.progress?.units ?? 0;
  const verified = done ? 1 : units ? job.progress.accepted / units : 0;
  const computed = job.contributors.reduce((sum, one) => sum + one.compute_s, 0);
  const refused = job.rejections.reduce((sum, one) => sum + one.count, 0);
  fill(at("facts"),
    h("section", { class: "panel" },
      h("p", null, h("span", { class: `tag ${done ? "passed" : job.state === "running" ? "open" : "stopped"}` }, STATES[job.state] ?? job.state)),
      h("progress", { max: 1, value: verified, "aria-label": `${format.percent(verified)} verified` }),
      facts(
        ["Verified", format.percent(verified), job.progress && !done ? `, ${format.count(job.progress.in_flight)} parts under way, ${format.count(job.progress.free)} free` : null],
        ["Product", `${format.count(job.m)} × ${format.count(job.k)} by ${format.count(job.k)} × ${format.count(job.n)}, ${job.dtype}: ${format.operations(job.flops / 1e9)} operations`],
        ["Submitted", moment(job.created_ms)],
        job.ended_ms ? ["Ended", moment(job.ended_ms), `, after ${format.time((job.ended_ms - job.created_ms) / 1e3)}`] : null,
        ["Volunteers", format.count(new Set(job.contributors.map((one) => one.volunteer)).size), job.progress && !done ? `, ${format.count(job.progress.volunteers)} at work now` : null],
        ["Refused results", format.count(refused)],
        ["Cost of verification", cost(job, computed)],
      ),
      done ? download(job, token) : null));
  fill(at("contributors"), job.contributors.length ? contributors(job, map) : h("p", { class: "empty" }, "Nobody has contributed yet."));
  fill(at("refused"), h("section", { class: "panel" }, h("h2", null, "Refused results"),
    job.rejections.length
      ? table("Refused results by reason", ["Reason", "Volunteer", "Count"], job.rejections.map((one) =>
        [REASONS[one.reason] ?? one.reason, code(one.volunteer, 8), format.count(one.count)]))
      : h("p", { class: "empty" }, "None: everything that came was right.")));
  at("parts").hidden = false;
  at("map").setAttribute("aria-label", words(map));
  at("map-note").textContent = note(map);
  paint(map);
}

function cost(job, computed) {
  if (!job.shards) return "nothing is checked yet";
  const each = `${((job.check_s * 1e3) / job.shards).toFixed(1)} ms each`;
  const share = computed > 0 ? `; volunteers computed for ${format.time(computed)}` : "";
  return `${job.check_s.toFixed(2)} s of one core for ${format.count(job.shards)} results, ${each}${share}`;
}

function contributors(job, map) {
  const total = job.contributors.reduce((sum, one) => sum + one.elements, 0);
  return table("Contributors", ["Volunteer", "With", "Shards", "Share", "In the kernel", "On the map"], job.contributors.map((one) => [
    code(one.volunteer, 8), BACKENDS[one.backend] ?? one.backend, format.count(one.shards),
    format.percent(one.elements / Math.max(1, total)), format.time(one.compute_s),
    map.volunteers.includes(one.volunteer)
      ? h("button", { type: "button", class: "small", "aria-pressed": String(lit === one.volunteer), "data-volunteer": one.volunteer,
        "aria-label": `Show the parts of ${one.volunteer.slice(0, 8)}` }, "Show") : "none whole yet"]));
}

function words(map) {
  const count = (cell) => map.cells.filter((one) => one === cell).length;
  const whole = map.cells.filter((one) => one >= 0).length;
  return `Map of the product: of ${map.cells.length} places ${whole} are verified, ${count(SOME)} in part and ${count(NOTHING)} not yet.`;
}

function note(map) {
  const place = map.volunteers.indexOf(lit);
  if (place < 0) return "Filled places are verified, half-filled ones in part. “Show” in the table marks somebody’s.";
  return `Marked: the ${map.cells.filter((one) => one === place).length} places of ${lit.slice(0, 8)}.`;
}

function paint(map) {
  const canvas = at("map");
  const place = map.volunteers.indexOf(lit);
  const cells = map.cells.map((one) =>
    one === NOTHING ? CELL.free : one === SOME ? CELL.leased : one === place ? CELL.lit : CELL.accepted);
  const again = () => draw(canvas, { columns: map.columns, cells });
  again();
  repaint = again;
  for (const button of document.querySelectorAll("[data-volunteer]")) {
    button.onclick = () => {
      lit = lit === button.dataset.volunteer ? null : button.dataset.volunteer;
      for (const one of document.querySelectorAll("[data-volunteer]")) one.setAttribute("aria-pressed", String(lit === one.dataset.volunteer));
      at("map-note").textContent = note(map);
      paint(map);
    };
  }
}

let repaint = () => {};
addEventListener("resize", () => repaint());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());

function download(job, token) {
  const bytes = job.m * job.n * ELEMENT_BYTES;
  if (bytes > MAX_DOWNLOAD_BYTES) {
    return h("p", null, `The result has ${format.bytes(bytes)}: `, h("code", null, `potluck fetch ${job.id} --out C.npy`), " brings it.");
  }
  const said = h("span", { class: "hint", role: "status" });
  const save = async ({ currentTarget: button }) => {
    button.disabled = true;
    said.textContent = "Being fetched.";
    try {
      const link = h("a", { href: URL.createObjectURL(await token.file(`/api/v1/jobs/${job.id}/result`)), download: `${job.id}.npy` });
      link.click();
      URL.revokeObjectURL(link.href);
      said.textContent = "Fetched.";
      document.body.dataset.fetched = job.id;
    } catch (error) {
      said.textContent = `It could not be fetched: ${error.message}.`;
    } finally {
      button.disabled = false;
    }
  };
  return h("p", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: save }, `Fetch the result, ${format.bytes(bytes)}`), said);
}
