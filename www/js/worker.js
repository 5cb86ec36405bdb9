// The Worker: loads the engine, which the page asks for only after a person agreed. Messages that come while it
// loads wait.
const waiting = [];
let engine;

self.onmessage = ({ data }) => {
  if (engine) engine.command(data);
  else waiting.push(data);
};

async function start() {
  const { default: init, TabEngine } = await import("/potluck-web.js");
  await init({ module_or_path: "/potluck-web_bg.wasm" });
  const settings = waiting.shift() ?? await new Promise((resolve) => { self.onmessage = ({ data }) => resolve(data); });
  engine = new TabEngine(settings, (view) => self.postMessage({ view }));
  self.onmessage = ({ data }) => engine.command(data);
  waiting.splice(0).forEach((command) => engine.command(command));
}

start().catch((error) => self.postMessage({ failed: String(error) }));
