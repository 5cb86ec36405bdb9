// What this device can do and what that will take, before anybody agrees. Only what every page may see anyway is looked at:
// whether an interface exists. The device itself is asked after consent.

import * as format from "./format.js";
import { read } from "./totals.js";

/** Part of the time that each preset lends. The engine's own figures; see `share` in its limits. */
const SHARES = { quiet: 0.25, balanced: 0.5, full: 1 };

const at = (id) => document.getElementById(id);

function row(id, is, words) {
  at(id).dataset.is = is;
  at(id).querySelector("dd").textContent = words;
}

/** Shows it for the preset and the backend that are chosen. */
export function show(preset, choice) {
  const gpu = "gpu" in navigator && choice !== "wasm";
  if (choice === "wasm") row("can-compute", "good", "Its processor, as you chose.");
  else if (gpu) row("can-compute", "good", "WebGPU and its processor: the faster one is measured once you agreed.");
  else if (!isSecureContext) row("can-compute", "less", "Its processor. For the GPU, open this page by https.");
  else row("can-compute", "less", "Its processor only, which is slower: this browser has no WebGPU, or it is turned off in its settings.");
  if ("RTCPeerConnection" in globalThis) row("can-link", "good", "Can exchange inputs with other volunteers directly.");
  else row("can-link", "less", "Cannot: this browser has no WebRTC, or an extension turned it off. Inputs come from the relay, which is enough.");
  const hourly = format.wattHours(3600 * SHARES[preset], gpu ? "webgpu" : "wasm");
  row("can-cost", "good", `At most about ${format.energyOf(hourly).replace("about ", "")} an hour, which is a guess: browsers do not tell. ${data()}`);
}

/** What the network had to carry, the last times. */
function data() {
  const { seconds, bytes } = read();
  // Less than a minute says nothing about an hour.
  if (seconds < 60) return "How much data depends on the job, and is shown while it runs.";
  return `Data: about ${format.bytes((bytes * 3600) / seconds)} an hour, as far as this browser remembers.`;
}
