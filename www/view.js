// Puts what the engine says on the page. No state of its own but what was shown last.

import * as format from "./format.js";
import { CELLS, describe, draw, sample, tally } from "./picture.js";

/** Screen readers hear of progress at most this often. */
const LIVE_MS = 10_000;

const at = (id) => document.getElementById(id);
let lastPicture = null;
let lastSpoken = 0;
let lastState = "";

function text(id, value) {
  const element = at(id);
  if (element.textContent !== value) element.textContent = value;
}

/** Fills the legend. Again after a change of colors. */
export function legend() {
  const list = at("legend");
  if (!list.children.length) {
    for (const { name, label } of CELLS) {
      const item = document.createElement("li");
      const canvas = document.createElement("canvas");
      canvas.dataset.cell = name;
      canvas.setAttribute("aria-hidden", "true");
      const words = document.createElement("span");
      words.textContent = label;
      const number = document.createElement("b");
      item.append(canvas, words, number);
      list.append(item);
    }
  }
  for (const canvas of list.querySelectorAll("canvas")) sample(canvas, canvas.dataset.cell);
}

/** Draws the picture again, after a change of size or colors. */
export function redraw() {
  if (at("running").hidden) return;
  legend();
  if (lastPicture) draw(at("picture"), lastPicture);
}

/** A new lending: nothing of the last one is shown. */
export function reset(preset) {
  lastPicture = null;
  lastState = "";
  lastSpoken = 0;
  at("picture").hidden = true;
  at("no-picture").hidden = false;
  text("job", "");
  for (const id of ["accepted", "rejected", "superseded"]) text(id, "0");
  for (const id of ["accepted-work", "rejected-why", "speed", "share-allowed", "energy-basis"]) text(id, "");
  text("backend", "being chosen");
  text("share", "0 %");
  at("share-meter").value = 0;
  text("energy", format.energyOf(0));
  text("bytes-in", "0 B in,");
  text("bytes-out", "0 B out");
  peers({ peers: [], fromPeers: 0, fromRelay: 0, toPeers: 0 });
  at("measured").tBodies[0].replaceChildren();
  at("measured").hidden = true;
  for (const radio of document.getElementsByName("preset-now")) radio.checked = radio.value === preset;
  state("starting", "Loading the engine.");
}

/** Shows a state and its reason. */
export function state(name, reason) {
  document.body.dataset.state = name;
  document.title = `${format.STATES[name] ?? name} · Potluck`;
  text("running-title", format.STATES[name] ?? name);
  text("reason", reason);
  text("pause", name === "paused" ? "Resume" : "Pause");
  at("pause").disabled = name === "finishing";
  at("finish").disabled = name === "finishing" || name === "starting";
  speak(`${format.STATES[name] ?? name}. ${reason}`, name !== lastState);
  lastState = name;
}

/** Shows everything that the engine says. */
export function show(view) {
  const { body } = document;
  body.dataset.backend = view.backend ?? "";
  body.dataset.accepted = view.accepted;
  body.dataset.rejected = view.rejected;
  body.dataset.gflops = view.gflops;
  body.dataset.measured = JSON.stringify(view.measured);
  text("accepted", format.count(view.accepted));
  text("accepted-work", view.accepted ? `${format.operations(view.acceptedGflop)} operations` : "");
  text("rejected", format.count(view.rejected));
  text("rejected-why", view.lastRejection ? `the last one: ${view.lastRejection}` : "");
  text("superseded", format.count(view.superseded));
  text("backend", format.BACKENDS[view.backend] ?? "being chosen");
  text("speed", view.backend ? format.speed(view.gflops) : "");
  text("share", format.percent(view.measuredShare));
  text("share-allowed", `of at most ${format.percent(view.allowedShare)}`);
  const meter = at("share-meter");
  meter.value = Math.min(1, view.measuredShare);
  text("energy", format.energy(view.busyS, view.backend));
  text("energy-basis", view.backend ? format.energyBasis(view.backend) : "");
  text("bytes-in", `${format.bytes(view.bytesIn)} in,`);
  text("bytes-out", `${format.bytes(view.bytesOut)} out`);
  peers(view);
  measured(view.measured);
  if (view.picture) picture(view.picture);
  const tile = view.state === "running" && view.tile;
  state(view.state, tile ? `A tile of ${tile[0]} × ${tile[1]}, ${tile[2]} deep.` : view.reason);
}

function picture(picture) {
  const canvas = at("picture");
  lastPicture = picture;
  canvas.hidden = false;
  at("no-picture").hidden = true;
  const words = describe(picture);
  if (canvas.getAttribute("aria-label") !== words) canvas.setAttribute("aria-label", words);
  const people = picture.volunteers === 1 ? "1 volunteer" : `${format.count(picture.volunteers)} volunteers`;
  text("job", `${picture.name}: ${Math.floor(picture.accepted * 100)} % verified, ${people}`);
  // Nobody sees a hidden tab.
  if (document.hidden) return;
  const counts = tally(picture.cells);
  [...at("legend").children].forEach((item, kind) => {
    item.lastElementChild.textContent = format.count(counts[kind]);
  });
  draw(canvas, picture);
}

/** Links to peers, and what went over them. */
function peers({ peers: links, fromPeers, fromRelay, toPeers }) {
  const { dataset } = document.body;
  const connected = links?.filter(({ path }) => path !== "connecting").length ?? 0;
  dataset.peers = connected;
  dataset.fromPeers = fromPeers;
  dataset.fromRelay = fromRelay;
  dataset.toPeers = toPeers;
  text("peers", links === null ? "Relay only" : connected ? `${connected} connected` : "None yet");
  text("peers-note", links === null ? "No other volunteer sees your IP address." : "");
  text("from-peers", format.bytes(fromPeers));
  text("from-relay", format.bytes(fromRelay));
  text("to-peers", format.bytes(toPeers));
  const table = at("peer-links");
  table.hidden = !links?.length;
  const body = table.tBodies[0];
  while (body.rows.length > (links?.length ?? 0)) body.deleteRow(-1);
  links?.forEach(({ path, receiving, sending }, i) => {
    const row = body.rows[i] ?? body.insertRow();
    row.dataset.path = path;
    const words = path === "connecting" ? ["", ""] : [format.rate(receiving), format.rate(sending)];
    [format.PATHS[path], ...words].forEach((value, column) => {
      const cell = row.cells[column] ?? row.insertCell();
      if (cell.textContent !== value) cell.textContent = value;
    });
  });
}

function measured(kernels) {
  const table = at("measured");
  const body = table.tBodies[0];
  if (body.rows.length === kernels.length) return;
  table.hidden = kernels.length === 0;
  body.replaceChildren(
    ...kernels.map(({ kernel, gflops, rejected }) => {
      const row = document.createElement("tr");
      const name = row.insertCell();
      name.translate = false;
      name.textContent = kernel;
      row.insertCell().textContent = rejected ? `not used: ${rejected}` : format.speed(gflops);
      return row;
    }),
  );
}

/** Tells screen readers: a new state if the last words are old enough, else with the next progress. */
function speak(words, changed) {
  const now = performance.now();
  if (now - lastSpoken < LIVE_MS && lastSpoken > 0) return;
  const progress = lastPicture ? ` ${describe(lastPicture)}` : "";
  if (!changed && !progress) return;
  lastSpoken = now;
  text("live", words + progress);
}
