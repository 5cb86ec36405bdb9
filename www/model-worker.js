// The Worker in which a model writes: the page stays responsive, and Stop is heard between two tokens. It has the files from
// the page, checks them, and fetches nothing but its own code.

import init, { Promised } from "./model/model.js";

/** Text is passed on, and messages are heard, at least this often, in milliseconds: a frame. */
const SLICE_MS = 16;

const breath = new MessageChannel();
const waiting = [];
breath.port1.onmessage = () => waiting.shift()();
/** Lets other messages in: no timer, which browsers would stretch. */
const breathe = () => new Promise((resolve) => {
  waiting.push(resolve);
  breath.port2.postMessage(null);
});

let promised = null;
let model = null;
/** The text that is being written: what the page calls it. */
let writing = null;

const loaded = init().catch((error) => {
  throw new Error(`the module of the model could not be loaded: ${error?.message ?? error}`);
});
loaded.catch(() => {});

const tasks = {
  /** What the log promises of a model. */
  async promise({ request, hash }) {
    await loaded;
    promised?.free();
    promised = new Promised(request, hash);
    return {
      tokenizer: promised.tokenizer(), parameters: promised.parameters(), bytes: promised.bytes(),
      context: promised.context(), layers: promised.layers(), vocabulary: promised.vocabulary(),
    };
  },

  /** Takes the files, if they are what was promised. */
  open({ tokenizer, parameters, hash }) {
    writing = null;
    model?.free();
    model = null;
    model = promised.open(tokenizer, parameters, hash);
    return {};
  },

  async write({ id, prompt, temperature, topK, seed, tokens }) {
    writing = id;
    const read = model.begin(prompt, temperature, topK, seed);
    const started = performance.now();
    let [written, text, last] = [0, "", started];
    while (written < tokens && writing === id) {
      const piece = model.step();
      if (piece !== undefined) {
        written += 1;
        text += piece;
      }
      if (performance.now() - last < SLICE_MS && written > 1) continue;
      if (text) self.postMessage({ id, piece: text, written });
      text = "";
      await breathe();
      last = performance.now();
    }
    const stopped = writing !== id;
    if (!stopped) {
      text += model.finish();
      writing = null;
    }
    return { written, text, read, stopped, seconds: (performance.now() - started) / 1000 };
  },
};

self.addEventListener("message", async ({ data: { task, id, ...rest } }) => {
  if (task === "stop") {
    writing = null;
    return;
  }
  try {
    self.postMessage({ id, answer: await tasks[task]({ id, ...rest }) });
  } catch (error) {
    self.postMessage({ id, failed: String(error?.message ?? error) });
  }
});
