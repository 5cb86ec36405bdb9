// The tab's Worker: loads the engine and passes messages between it and the page. All work happens in here, so that
// the page can end it at any moment.

import * as inputs from "./inputs.js";
import { prove } from "./prove.js";
import init, { TabEngine } from "./potluck-web.js";

/** Messages that came before the engine was ready; the page sends a handful at most. */
const early = [];
let engine;
/** Whether the page has the engine's code. */
let shared = false;
/** Whether inputs may be kept in this browser. */
let remember = false;
/** The relay's log: its `key`, if it keeps one, and the relay's address as `base`. */
let log = { base: "" };

self.addEventListener("message", ({ data }) => {
  if (engine) take(data);
  else early.push(data);
});

/** Models that burn trains, each with its engine, or the promise of one. */
const burnEngines = new Map();

/** Called by the engine: fetches burn when the first such model is leased. */
self.burnEngine = (model) => {
  if (!burnEngines.has(model)) {
    const made = (async () => {
      const { default: load, BurnEngine } = await import("./burn/burn.js");
      await load();
      return BurnEngine.create(model);
    })();
    made.catch(() => burnEngines.delete(model));
    burnEngines.set(model, made);
  }
  return burnEngines.get(model);
};

/** Called by the engine when a device failed. */
self.forgetBurnEngine = (model) => burnEngines.delete(model);

/** Called by the engine: passes a message about links to the page. The first one takes the compiled code along. */
function toPage(link, transfer) {
  self.postMessage({ link, module: shared ? undefined : TabEngine.module() }, transfer);
  shared = true;
}

/** Called by the engine: an input came, or, without bytes, is needed no more. */
function storage(hash, bytes) {
  if (remember) inputs.store(hash, bytes);
}

/** Called by the engine: what was fetched instead of work is here; without bytes, it is not to be had. */
function fetched(hash, bytes) {
  self.postMessage({ fetched: { hash, bytes } }, bytes ? [bytes.buffer] : []);
}

/** Called by the engine: has to know whether a run or a candidate stands in the public log. */
function demand(kind, id, relay) {
  prove(kind, id, relay, log).then(
    () => engine.proven(kind, id),
    (error) => engine.proven(kind, id, String(error?.message ?? error)),
  );
}

function take(message) {
  try {
    if (message.forget) remember = false;
    else if (message.move) move(message.move);
    else if (message.link) engine.link(message.link);
    else engine.command(message);
  } catch (error) {
    fail(error);
  }
}

/** Another relay goes on with the log. */
function move({ url, key }) {
  log = { key, base: addressOf(url) };
  engine.moveTo(url);
}

/** The relay's address, by that of its socket. */
const addressOf = (url) => new URL(url.replace(/^ws/, "http")).origin;

function fail(error) {
  self.postMessage({ failed: String(error?.message ?? error) });
}

try {
  await init().catch((error) => {
    throw new Error(`The engine could not be loaded: ${error?.message ?? error}`);
  });
  const settings = early.shift() ?? (await new Promise((resolve) => {
    self.addEventListener("message", () => resolve(early.shift()), { once: true });
  }));
  remember = settings.remember;
  log = { ...settings.log, base: addressOf(settings.url) };
  delete settings.remember;
  delete settings.log;
  engine = new TabEngine(settings, (view) => self.postMessage({ view }), toPage, storage, demand, fetched);
  if (remember) inputs.load((bytes) => engine.stored(bytes));
  early.splice(0).forEach(take);
} catch (error) {
  fail(error);
}
