// The relay as its operator sees it. The token stays in this tab.

import * as format from "./format.js";
import { at, facts, fill, h, moment, table } from "./page.js";
import { Token, sleep, visible } from "./tokens.js";

/** Pause between two looks. */
const LOOK_MS = 5000;

const token = new Token("potluck.admin", shown);
token.listen(at("token-form"), "token", "token-note");
at("forget").addEventListener("click", () => {
  token.forget();
  at("token").focus();
});

/** Wakes who waits for the next look. */
let wake = () => {};

function shown() {
  at("enter").hidden = token.known;
  at("figures").hidden = !token.known;
  document.body.dataset.operator = token.known ? "asking" : "locked";
  wake();
}

/** Switches something; the page is looked up again. */
async function turn(kind, name, off) {
  at("off-note").textContent = "";
  try {
    await token.post("/api/v1/operator/switches", { kind, name, off });
    if (off) at("off-name").value = "";
  } catch (error) {
    at("off-note").textContent = `That could not be switched: ${error.message}.`;
  }
  wake();
}

at("off-form").addEventListener("submit", (event) => {
  event.preventDefault();
  turn(at("off-kind").value, at("off-name").value.trim(), true);
});

/** A switch for each kernel, and for each other thing that is off. */
function switches({ kernels, off }) {
  const isOff = (kind, name) => off.find((one) => one.kind === kind && one.name === name);
  const others = off.filter(({ kind }) => kind !== "kernel").map(({ kind, name }) => [kind, name]);
  return [...kernels.map((name) => ["kernel", name]), ...others].map(([kind, name], i) => {
    const since = isOff(kind, name);
    return h("p", { class: "switch" },
      h("button", {
        type: "button", role: "switch", id: `switch-${i}`, "aria-checked": String(!since), "aria-labelledby": `switch-${i}-label`,
        "data-kind": kind, "data-name": name, onclick: () => turn(kind, name, !since),
      }),
      h("label", { for: `switch-${i}`, id: `switch-${i}-label` }, `${kind[0].toUpperCase()}${kind.slice(1)} `, h("code", null, name)),
      since && h("span", { class: "hint" }, " off since ", moment(since.since_ms)));
  });
}

const number = (value) => format.count(value);

function show(view) {
  const { sessions, queue, bandwidth, errors } = view;
  at("since").textContent = `Version ${view.version}, up for ${format.time(view.uptime_s)}. Counters begin when it starts.`;
  fill(at("sessions"), facts(
    ["Open", number(sessions.open)], ["With consent", number(sessions.consenting)],
    ["In the mesh", number(sessions.in_mesh)], ["Refused", number(sessions.refused)]));
  fill(at("queue"), facts(
    ["Jobs, runs, evals", `${number(queue.jobs)}, ${number(queue.runs)}, ${number(queue.evals)}`],
    ["Units waiting", number(queue.units_free)], ["Units under way", number(queue.units_in_flight)],
    ["Leases out", number(queue.leases)],
    ["Leases given", `${number(queue.leases_given)}, of which ${number(queue.leases_lost)} came to nothing`],
    ["Results accepted", number(queue.accepted)], ["Refused", number(queue.rejected)],
    ["Late or second", number(queue.superseded)], ["Results in memory", format.bytes(queue.result_bytes)]));
  fill(at("bandwidth"), facts(
    ["Inputs sent", format.bytes(bandwidth.inputs_sent)],
    ["Inputs from peers instead", format.bytes(bandwidth.saved_by_peers)],
    ["Through TURN", format.bytes(bandwidth.through_turn)]));
  fill(at("rejects"), view.rejects.length
    ? table("Refused results by reason", ["Reason", "In all", "Last 24 hours"], view.rejects.map((one) =>
      [one.reason.replaceAll("_", " "), number(one.count), number(one.last_day)]))
    : h("p", { class: "empty" }, "No result was refused."));
  fill(at("switches"), switches(view));
  const all = view.store.reduce((sum, part) => sum + part.bytes, 0);
  fill(at("store"), table(`${format.bytes(all)} in all, measured at most 30 s ago`, ["Part", "Size", "Files"], view.store.map((part) =>
    [part.part, `${part.partial ? "more than " : ""}${format.bytes(part.bytes)}`, number(part.files)])));
  fill(at("memory"), view.memory_bytes === null ? "" : `The process occupies ${format.bytes(view.memory_bytes)} of memory.`);
  fill(at("errors"), errors.recent.length
    ? [h("p", { class: "hint" }, `${number(errors.total)} since it started; the newest first.`),
      h("ul", { class: "plain" }, errors.recent.map((one) => h("li", null, moment(one.at_ms), ": ", one.message)))]
    : h("p", { class: "empty" }, "None since it started."));
  document.body.dataset.operator = "shown";
}

shown();
for (;;) {
  await visible();
  if (token.known) {
    try {
      show(await token.json("/api/v1/operator"));
      at("problem").hidden = true;
    } catch (error) {
      at("problem").hidden = !token.known;
      at("problem").textContent = `The relay does not answer (${error.message}). It is asked again.`;
    }
  }
  await Promise.race([sleep(LOOK_MS), new Promise((resolve) => { wake = resolve; })]);
}
