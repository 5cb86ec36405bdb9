// The tab's Worker: loads the engine and passes messages between it and the page. All work happens in here, so that
// the page can end it at any moment.

import init, { TabEngine } from "./potluck-web.js";

/** Messages that came before the engine was ready; the page sends a handful at most. */
const early = [];
let engine;

self.addEventListener("message", ({ data }) => {
  if (engine) take(data);
  else early.push(data);
});

function take(message) {
  try {
    engine.command(message);
  } catch (error) {
    fail(error);
  }
}

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
  engine = new TabEngine(settings, (view) => self.postMessage({ view }));
  early.splice(0).forEach(take);
} catch (error) {
  fail(error);
}
