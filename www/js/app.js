// The donate page. It shows; the engine in the Worker decides. Nothing of the engine loads before the click on
// "I agree": not the Worker, not the wasm, no connection.
import { Picture, describe } from "./picture.js";

const TEXT_VERSION = 1;
// The engine ends within this time after Stop; then the Worker is ended from outside.
const STOP_MS = 150;
const ANNOUNCE_MS = 10_000;
// Watts of a busy device, for the estimate of energy. A laptop's GPU or core takes about this much.
const WATTS = { webgpu: 25, wasm: 12 };

const $ = (id) => document.getElementById(id);
const body = document.body;
const picture = new Picture($("picture"));
let worker = null, stopTimer = 0, last = null, announced = 0, conditions = {}, stopping = false;

function show(name) {
  for (const section of document.querySelectorAll("[data-show]")) section.hidden = section.dataset.show !== name;
}

function setState(state) {
  body.dataset.state = state;
}

// What the address preselects. It never replaces the click.
function preselect() {
  const query = new URLSearchParams(location.search);
  const form = $("choices");
  const preset = form.querySelector(`[name=preset][value="${CSS.escape(query.get("preset") ?? "")}"]`);
  if (preset) preset.checked = true;
  const backend = [...form.backend.options].find((option) => option.value === query.get("backend"));
  if (backend) backend.selected = true;
  form.hidden.checked = query.get("hidden") === "run";
}

// A key by which the relay knows this browser again; forgotten where a person asked not to be remembered.
function volunteerKey() {
  if (navigator.globalPrivacyControl || navigator.doNotTrack === "1") return null;
  try {
    let key = localStorage.getItem("potluck-key");
    if (!/^[0-9a-f]{64}$/.test(key ?? "")) {
      key = [...crypto.getRandomValues(new Uint8Array(32))].map((b) => b.toString(16).padStart(2, "0")).join("");
      localStorage.setItem("potluck-key", key);
    }
    return key;
  } catch {
    return null;
  }
}

function command(message) {
  worker?.postMessage(message);
}

function sendConditions() {
  command({ kind: "conditions", hidden: document.hidden, onBattery: !!conditions.battery, mobileData: navigator.connection?.type === "cellular" });
}

async function watchBattery() {
  const battery = await navigator.getBattery?.().catch(() => null);
  if (!battery) return;
  const update = () => { conditions.battery = !battery.charging; sendConditions(); };
  battery.addEventListener("chargingchange", update);
  update();
}

function start(event) {
  // A script can neither agree nor make somebody agree.
  if (!event.isTrusted || worker) return;
  const form = $("choices");
  const preset = form.preset.value;
  stopping = false;
  last = null;
  show("live");
  setState("starting");
  $("state").textContent = "Starting";
  $("reason").textContent = "Loading the engine.";
  document.querySelector(`[name=live-preset][value="${preset}"]`).checked = true;
  worker = new Worker("/js/worker.js", { type: "module" });
  worker.onmessage = ({ data }) => data.view ? render(data.view) : fail(data.failed);
  worker.onerror = (event) => fail(event.message || "the Worker could not be loaded");
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/volunteer`;
  command({ url, origin: location.origin, textVersion: TEXT_VERSION, key: volunteerKey() });
  const battery = form.battery.checked;
  command({ kind: "ignore", hidden: form.hidden.checked, onBattery: battery, mobileData: battery });
  sendConditions();
  command({ kind: "start", preset, backend: form.backend.value, hours: Number(form.hours.value) });
  watchBattery();
  $("live-title").focus();
}

// Ends the Worker, whatever it does, and says thanks.
function over(state, text) {
  clearTimeout(stopTimer);
  worker?.terminate();
  worker = null;
  setState(state);
  show("over");
  $("over-title").textContent = state === "failed" ? "That did not work." : "Thank you.";
  $("over-text").textContent = text;
  $("over-title").focus();
}

function fail(message) {
  over("failed", `The engine stopped: ${message}. Reload the page; if it stays so, try another backend under Advanced.`);
}

function stop() {
  if (!worker || stopping) return;
  stopping = true;
  command({ kind: "stop" });
  // If the engine is in the middle of something, it does not get to finish it.
  stopTimer = setTimeout(() => over("finished", thanks()), STOP_MS);
}

function thanks() {
  const accepted = last?.accepted ?? 0;
  if (!accepted) return "Nothing was finished this time, and nothing is lost: the piece goes to somebody else.";
  const pieces = accepted === 1 ? "1 piece" : `${accepted} pieces`;
  return `${pieces} of yours (${work(last.acceptedGflop)}) were checked and accepted. They are part of the result now.`;
}

const work = (gflop) => gflop >= 1000 ? `${(gflop / 1000).toFixed(2)} TFLOP` : `${gflop.toFixed(gflop < 10 ? 2 : 0)} GFLOP`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const percent = (share) => `${Math.round(share * 100)} %`;
const NAMES = { webgpu: "the GPU (WebGPU)", wasm: "the processor (wasm SIMD)" };
const TITLES = { running: "Computing", waiting: "Waiting", paused: "Paused", finishing: "Finishing" };

function render(view) {
  last = view;
  if (view.state === "finished") return stopping || body.dataset.state === "finishing" ? over("finished", thanks()) : null;
  if (view.state === "failed") return over("failed", view.refusal ? `${view.reason} It says: ${view.refusal}` : view.reason);
  if (view.state === "consent") return over("finished", `${view.reason} ${thanks()}`);
  const starting = body.dataset.state === "starting" && view.state === "waiting" && !view.backend;
  setState(starting ? "starting" : view.state);
  body.dataset.accepted = view.accepted;
  body.dataset.rejected = view.rejected;
  body.dataset.gflops = view.gflops;
  if (view.backend) body.dataset.backend = view.backend;
  $("state").textContent = starting ? "Starting" : TITLES[view.state] ?? view.state;
  $("reason").textContent = view.state === "running" && view.tile
    ? `A tile of ${view.tile[0]} × ${view.tile[1]}, sums over ${view.tile[2]}.` : view.reason;
  $("pause").setAttribute("aria-checked", String(view.state === "paused"));
  $("pause").textContent = view.state === "paused" ? "Resume" : "Pause";
  $("finish").disabled = view.state === "finishing";
  $("anyway").hidden = !/visible|mains|metered/.test(view.state === "waiting" ? view.reason : "");
  $("accepted").textContent = view.accepted;
  $("rejected").textContent = view.rejected;
  $("work").textContent = work(view.acceptedGflop);
  $("backend").textContent = view.backend ? `${NAMES[view.backend]}, ${view.gflops.toFixed(1)} GFLOP/s` : "measuring …";
  $("share").textContent = `${percent(view.measuredShare)} measured, ${percent(view.allowedShare)} allowed`;
  $("network").textContent = `${megabytes(view.bytesIn)} in, ${megabytes(view.bytesOut)} out`;
  const wattHours = view.busyS * (WATTS[view.backend] ?? WATTS.wasm) / 3600;
  $("energy").textContent = `about ${wattHours < 1 ? wattHours.toFixed(3) : wattHours.toFixed(1)} Wh`;
  const trouble = view.refusal ?? (view.lastRejection ? `A result was rejected: ${view.lastRejection}.` : "");
  $("trouble").hidden = !trouble;
  $("trouble").textContent = trouble;
  $("measured").replaceChildren(...view.measured.map(({ kernel, gflops, rejected }) => {
    const item = document.createElement("li");
    item.textContent = rejected ? `${kernel}: left out (${rejected})` : `${kernel}: ${gflops.toFixed(1)} GFLOP/s`;
    return item;
  }));
  body.dataset.measured = JSON.stringify(view.measured);
  if (view.picture) {
    picture.show(view.picture);
    $("job").textContent = view.picture.name;
    $("picture-text").textContent = describe(view.picture);
  }
  if (performance.now() - announced > ANNOUNCE_MS) {
    announced = performance.now();
    $("live-region").textContent = `${$("state").textContent}. ${view.accepted} results accepted.`;
  }
}

async function introduce() {
  const about = await fetch("/.well-known/potluck.json").then((answer) => answer.json()).catch(() => null);
  if (!about) return;
  $("operator").textContent = `run by ${about.operator}`;
  $("who").textContent = about.contact ? `${about.operator} (${about.contact})` : about.operator;
}

$("lend").addEventListener("click", () => { show("consent"); setState("consent"); $("consent-title").focus(); introduce(); });
$("decline").addEventListener("click", () => { show("idle"); setState("idle"); });
$("agree").addEventListener("click", start);
$("again").addEventListener("click", () => { show("consent"); setState("consent"); $("consent-title").focus(); });
$("stop").addEventListener("click", stop);
$("pause").addEventListener("click", () => command({ kind: last?.state === "paused" ? "resume" : "pause" }));
$("finish").addEventListener("click", () => { setState("finishing"); command({ kind: "finish" }); });
$("anyway").addEventListener("click", () => command({ kind: "ignore", hidden: true, onBattery: true, mobileData: true }));
$("live-choices").addEventListener("change", ({ target }) => command({ kind: "preset", preset: target.value }));
$("choices").addEventListener("submit", (event) => event.preventDefault());
$("live-choices").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => { sendConditions(); if (last?.picture) picture.show(last.picture); });
addEventListener("pagehide", () => worker?.terminate());
preselect();
