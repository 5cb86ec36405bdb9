// The model page. It reads the log, fetches the version that people promoted, has a Worker check it and lets it write there.
// `versions.js` says what there is and what it is, `download.js` fetches, `share.js` is about links.

import * as download from "./download.js";
import * as format from "./format.js";
import { Peers } from "./peers.js";
import { Log } from "./log.js";
import { at, fill, h } from "./page.js";
import * as share from "./share.js";
import { Refusal, fetchBytes } from "./trust.js";
import { card, describe, missing, proof, unproven, versions } from "./versions.js";
import { startWorker } from "./workers.js";

/** Larger models, and any where data is scarce, are fetched after a click only, in bytes. */
const UNASKED_BYTES = 8 << 20;
/** Longest `tokenizer.json`, in bytes. */
const MAX_TOKENIZER_BYTES = 8 << 20;

const { dataset } = document.body;
const say = (words) => { at("live").textContent = words; };

/** The Worker, and what waits for its answers. */
const worker = startWorker("model-worker.js", "model");
const asked = new Map();
let lastId = 0;

function ask(task, message = {}, onPiece = null, transfer = []) {
  return new Promise((resolve, reject) => {
    asked.set(++lastId, { resolve, reject, onPiece });
    worker.postMessage({ task, id: lastId, ...message }, transfer);
  });
}

worker.addEventListener("message", ({ data: { id, piece, written, answer, failed } }) => {
  const waiting = asked.get(id);
  if (!waiting) return;
  if (piece !== undefined) return waiting.onPiece(piece, written);
  asked.delete(id);
  if (failed === undefined) waiting.resolve(answer);
  else waiting.reject(new Error(failed));
});
worker.addEventListener("error", (event) => {
  event.preventDefault();
  for (const { reject } of asked.values()) reject(new Error(`the Worker ended: ${event.message ?? "it could not be loaded"}`));
  asked.clear();
});

let log = null;
let all = [];
/** The version that is shown, what the log promises of it, and whether it is here. */
let choice = null;
let sizes = null;
let opened = false;
/** Ends a download. */
let leave = new AbortController();
/** Links with other tabs, once a person asked for them. */
const peers = new Peers(passing);

const PARTS = {
  reading: ["reading"], problem: ["problem"], none: ["none"], checking: ["about"], offered: ["offer", "about"],
  loading: ["loading", "about"], refused: ["problem", "about"], ready: ["writer", "about"], writing: ["writer", "about", "result"],
};

function enter(state) {
  dataset.state = state;
  for (const id of ["reading", "problem", "none", "offer", "loading", "writer", "about"]) at(id).hidden = !PARTS[state].includes(id);
  at("result").hidden = !(state === "writing" || (state === "ready" && at("text").hasChildNodes()));
  at("write").disabled = state === "writing";
  at("stop").disabled = state !== "writing";
  network();
}

function network() {
  dataset.network = navigator.onLine ? "online" : "offline";
  at("offline").hidden = navigator.onLine || !["ready", "writing"].includes(dataset.state);
}

function fail(state, title, text, { again = true, instead = false } = {}) {
  at("again").hidden = !again;
  at("instead").hidden = !instead;
  at("problem-title").textContent = title;
  at("problem-text").textContent = text.charAt(0).toUpperCase() + text.slice(1);
  enter(state);
}

/** The relay does not answer: nothing is wrong with the model. */
const isAway = (error) => !(error instanceof Refusal) && (error instanceof TypeError || ["TimeoutError", "AbortError"].includes(error?.name));

async function start() {
  leave.abort();
  peers.stop();
  choice = null;
  enter("reading");
  try {
    log ??= new Log(({ read, size }) => {
      at("progress").max = Math.max(1, size);
      at("progress").value = read;
      at("progress-words").textContent = `${read.toLocaleString("en")} of ${size.toLocaleString("en")} entries read and checked`;
    });
    await log.read();
  } catch (error) {
    return isAway(error)
      ? fail("problem", "The relay cannot be reached.", `${error.message}. Nothing is loaded yet.`)
      : fail("problem", "The log cannot be believed, so no model is run.", String(error?.message ?? error));
  }
  dataset.entries = log.size;
  const wanted = share.wanted();
  const why = unproven(log, wanted);
  all = versions(log);
  const found = all.find(({ model, candidate, inUse }) =>
    (wanted.model === null || model === wanted.model) && (wanted.version === null ? inUse : candidate === wanted.version));
  if (!found && (wanted.version !== null || (why && all.length))) {
    const instead = all.some(({ inUse }) => inUse);
    return fail("problem", "This model is not run.", why ?? "The log has no such version.", { again: false, instead });
  }
  if (!found) {
    fill(at("missing"), missing(log));
    return enter("none");
  }
  list();
  await choose(found);
}

function list() {
  at("version").replaceChildren(...all.map(({ model, number, inUse, candidate }, i) =>
    h("option", { value: i, "data-version": candidate }, `${model}, version ${number}${inUse ? " (in use)" : ""}`)));
}

/** Shows a version, and gets it, unless it is large. */
async function choose(found) {
  leave.abort();
  peers.stop();
  leave = new AbortController();
  const { signal } = leave;
  choice = found;
  [sizes, opened] = [null, false];
  dataset.version = found.candidate;
  at("version").value = all.indexOf(found);
  fill(at("text"));
  describe(found, null);
  proof(log, found, false);
  card(found, () => choice === found);
  at("kept").hidden = true;
  enter("checking");
  try {
    if (!found.request) throw new Error("the log does not say which run it is from");
    const request = await fetchBytes(`/api/v1/runs/${found.version.lineage.run}/request`);
    const promised = await ask("promise", { request, hash: found.request });
    if (signal.aborted) return;
    sizes = promised;
    describe(found, sizes);
    const kept = await download.kept(found.candidate);
    if (signal.aborted) return;
    const scarce = navigator.connection?.saveData === true || sizes.bytes > UNASKED_BYTES || found.paused;
    if (!kept && scarce) return offer(found);
    await get(found, kept, signal);
  } catch (error) {
    if (!signal.aborted) refuse(error);
  }
}

function offer({ paused }) {
  fill(at("offer-words"), paused ? [h("b", null, "This model is paused: "), paused.reason, " "] : null,
    `It has ${format.bytes(sizes.bytes)}. `, download.mayKeep() ? "This browser then keeps it." : "This browser does not keep it.");
  enter("offered");
}

function refuse(error) {
  const words = error?.message ?? String(error);
  if (isAway(error)) return fail("refused", "The relay cannot be reached.", words);
  if (error instanceof Refusal) return fail("refused", "The relay does not give this model out.", words);
  fail("refused", "This is not the model that people promoted, so it is not run.", words);
}

/** How it goes with other tabs; `null` when the last link is gone. */
function passing(now) {
  at("passing").hidden = now === null;
  dataset.passing = now === null ? "ended" : now.state;
  if (now === null) return;
  dataset.fromPeers = now.fromPeers;
  dataset.fromRelay = now.fromRelay;
  dataset.toPeers = now.toPeers;
  const tabs = now.tabs === 1 ? "1 tab is" : `${now.tabs || "no"} tabs are`;
  at("passing-words").textContent = `At the moment ${tabs} linked with this one. From others came ${format.bytes(now.fromPeers)}, from ` +
    `the relay ${format.bytes(now.fromRelay)}; passed on were ${format.bytes(now.toPeers)}.`;
}

/** The parameters: from other tabs, if a person agreed to that, and from the relay where that fails. */
async function parameters(found, fromPeers, signal) {
  if (fromPeers) {
    try {
      return await peers.fetch({ hash: found.candidate, bytes: sizes.bytes, onProgress: progress });
    } catch (error) {
      if (signal.aborted) throw error;
      say(`Other tabs cannot be used: ${error.message}. The relay gives it.`);
      progress({ done: 0, rate: null, left: null });
    }
  }
  return download.fetchLarge(`/api/v1/blobs/${found.candidate}`, { most: sizes.bytes, onProgress: progress, signal });
}

/** Gets the files and has them checked. What was kept may have gone bad: then it is fetched. */
async function get(found, kept, signal, fromPeers = false) {
  enter("loading");
  progress({ done: 0, rate: null, left: null });
  const tokenizer = await fetchBytes(`/api/v1/blobs/${sizes.tokenizer}`);
  if (tokenizer.length > MAX_TOKENIZER_BYTES) throw new Error(`the tokenizer has ${tokenizer.length} bytes, which is too long`);
  const open = (parameters) => ask("open", { tokenizer, parameters, hash: found.candidate });
  let usable = false;
  if (kept) {
    usable = await open(kept).then(() => true, () => false);
    if (!usable) await download.drop(found.candidate);
  }
  if (!usable && !signal.aborted) {
    const bytes = await parameters(found, fromPeers, signal);
    if (signal.aborted) return;
    at("download-words").textContent = "Being checked";
    await open(bytes);
    kept = (await download.keep(found.candidate, bytes)) ? bytes : null;
  }
  if (signal.aborted) return;
  opened = true;
  proof(log, found, true);
  at("kept").hidden = !kept;
  at("drop").hidden = false;
  at("kept-words").textContent = `This browser keeps the model for the next visit (${format.bytes(sizes.bytes)}).`;
  share.fillIn();
  turn();
  enter("ready");
  say("The model is here and is the one that people promoted.");
}

function progress({ done, rate, left }) {
  at("download").max = sizes.bytes;
  at("download").value = done;
  dataset.downloaded = done;
  at("download-words").textContent = `${format.bytes(done)} of ${format.bytes(sizes.bytes)}` +
    (rate === null ? "" : `, ${format.rate(rate)}, ${format.time(Math.ceil(left))} left`);
}

/** Shows the dial's number. */
function turn() {
  at("temperature-now").textContent = Number(at("temperature").value).toFixed(1);
}

const number = (id) => {
  const { value, min, max } = at(id);
  return Math.min(Math.max(Math.trunc(Number(value)) || 0, Number(min)), Number(max));
};

async function write() {
  if (dataset.state !== "ready") return;
  if (!at("keep-seed").checked) at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  const prompt = at("prompt").value;
  const settings = { prompt, temperature: Number(at("temperature").value), topK: number("top-k"), seed: number("seed"), tokens: number("tokens") };
  for (const [id, value] of [["top-k", settings.topK], ["seed", settings.seed], ["tokens", settings.tokens]]) at(id).value = value;
  const continuation = document.createTextNode("");
  at("text").replaceChildren(h("span", { class: "given" }, prompt), continuation);
  at("share-link").hidden = true;
  at("share-note").textContent = at("pace").textContent = "";
  enter("writing");
  if (document.activeElement === at("write") || document.activeElement === document.body) at("stop").focus();
  const started = performance.now();
  try {
    const done = await ask("write", settings, (piece, written) => {
      continuation.data += piece;
      dataset.written = written;
      at("pace").textContent = `${written} of ${settings.tokens} tokens, ${pace(written, (performance.now() - started) / 1000)}`;
    });
    continuation.data += done.text;
    dataset.written = done.written;
    dataset.ended = done.stopped ? "stopped" : "whole";
    at("pace").textContent = `${done.stopped ? "Stopped after" : "Done:"} ${done.written} tokens, ${pace(done.written, done.seconds)}`;
    share.remember({ model: choice.model, version: choice.candidate, ...settings });
  } catch (error) {
    dataset.ended = "failed";
    at("pace").textContent = String(error?.message ?? error);
  }
  const focused = document.activeElement === at("stop");
  enter("ready");
  if (focused) at("write").focus();
  say(at("pace").textContent);
}

const pace = (tokens, seconds) => (seconds > 0.05 ? `${format.count(tokens / seconds)} a second` : "at once");
const stop = () => worker.postMessage({ task: "stop" });

at("writer").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  }
});
at("stop").addEventListener("click", stop);
addEventListener("keydown", ({ key }) => { if (key === "Escape" && dataset.state === "writing") stop(); });
at("temperature").addEventListener("input", turn);
at("seed").addEventListener("input", () => { at("keep-seed").checked = true; });
at("version").addEventListener("change", () => choose(all[Number(at("version").value)]));
/** Gets what waited for a click. */
function load(fromPeers) {
  const { signal } = leave;
  get(choice, null, signal, fromPeers).catch((error) => {
    if (!signal.aborted) refuse(error);
  });
}

at("load").addEventListener("click", () => load(false));
at("load-peers").addEventListener("click", ({ isTrusted }) => {
  // Other tabs learn this device's address: a script cannot agree to that.
  if (isTrusted) load(true);
});
at("stop-passing").addEventListener("click", () => peers.stop());
addEventListener("pagehide", () => peers.kill());
at("again").addEventListener("click", () => (choice && log ? choose(choice) : start()));
at("share").addEventListener("click", share.show);
at("drop").addEventListener("click", async () => {
  await download.drop(choice.candidate);
  at("drop").hidden = true;
  at("kept-words").textContent = "It is removed from this browser. This tab goes on with it until you close it.";
});
addEventListener("hashchange", () => {
  const { version } = share.wanted();
  if (version !== null && version !== choice?.candidate) start();
  else share.fillIn();
});
addEventListener("online", network);
addEventListener("offline", network);

await start();
