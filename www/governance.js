// The governance page: who decides, by which rules, what is open; and what one may say about it.

import { Acts } from "./acts.js";
import { follow } from "./log.js";
import { KINDS, OUTCOMES, at, code, countdown, duration, facts, fill, h, list, moment, table, tick } from "./page.js";
import { Proposal } from "./proposal.js";

let log = null;
const acts = new Acts(() => look?.());
const proposal = new Proposal(acts);
/** Looks at the log now. */
let look;

/** The proposal that the address names; `null` for the overview. */
const asked = () => /^#proposal=([0-9a-f]{64})$/.exec(location.hash)?.[1] ?? null;

async function show(found) {
  log = found;
  const view = log.overview();
  await acts.update(log, view);
  const id = asked();
  at("overview").hidden = id !== null;
  at("proposal").hidden = id === null;
  for (const panel of ["key", "log"]) at(panel).hidden = false;
  for (const panel of ["propose", "act"]) at(panel).hidden = id !== null || !view.founded;
  document.body.dataset.view = id ?? "overview";
  if (id) await proposal.show(log, id);
  else overview(view);
  theLog(view);
}

function overview(view) {
  document.title = "Governance · Potluck";
  alerts(view);
  const open = view.proposals.filter(isOpen);
  const past = view.proposals.filter((one) => !isOpen(one));
  fill(at("open"), cards(open, view.founded
    ? "Nothing is proposed at the moment."
    : "Nobody is in office in this log yet: nothing can be proposed or promoted. Its operator names the people, once."));
  fill(at("past"), cards(past, "Nothing was decided yet."));
  people(view);
  mirrors(view);
  stopped(view);
  rules(view.constitution);
  decisions(view);
}

const isOpen = ({ outcome }) => ["open", "not_open", "unseconded"].includes(outcome.state);

function alerts({ pauses, report }) {
  const found = pauses.filter((pause) => pause.inForce).map((pause) =>
    h("p", { class: "notice alarm" }, h("b", null, `Paused: ${scope(pause.scope)}. `), pause.reason, " It ends ",
      pause.ratifiedMs ? "when stewards end it." : countdown(pause.expiresMs), "."));
  if (report.errorCount) {
    found.push(h("div", { class: "notice alarm" },
      h("p", null, h("b", null, `${report.errorCount} entries of this log do not follow from those before them. `),
        "What they say is left out here."),
      h("ul", { class: "plain" }, report.errors.slice(0, 5).map((error) => h("li", null, error)))));
  }
  fill(at("alerts"), found);
}

const scope = (text) => (text === "all" ? "everything" : text.replace(":", " "));

function cards(proposals, none) {
  if (!proposals.length) return h("p", { class: "hint" }, none);
  return h("div", { class: "cards" }, proposals.map(card));
}

function card(one) {
  const { state, tally } = one.outcome;
  return h("article", { class: "card", "data-proposal": one.id, "data-outcome": state },
    h("h3", null, h("a", { href: `#proposal=${one.id}` }, `${KINDS[one.kind] ?? one.kind}: ${one.subject}`), " ",
      h("span", { class: `tag ${state}` }, one.applied === null ? OUTCOMES[state] : "in effect")),
    h("p", { class: "hint" }, "proposed by ", one.by ?? code(one.byKey), " on ", moment(one.atMs), "; ",
      isOpen(one) ? ["closes ", countdown(one.closes)] : ["closed on ", moment(one.closes)]),
    tally ? h("p", null, counted(tally)) : null,
    state === "unseconded" ? h("p", null, `${one.seconds} of ${one.secondsNeeded} seconds`) : null);
}

export const counted = (tally) =>
  `${tally.yes} yes, ${tally.no} no, ${tally.abstain} abstained of ${tally.eligible} who may vote` +
  (tally.adviceYes + tally.adviceNo ? `; volunteers ${tally.adviceYes} for, ${tally.adviceNo} against` : "");

function people({ roles, volunteers }) {
  const rows = [["stewards", "Steward: proposes, votes, pauses"], ["auditors", "Auditor: checks again, may pause"], ["operators", "Runs a relay"]]
    .flatMap(([role, words]) => roles[role].map((person) => [person.name, words, code(person.key)]));
  fill(at("people"),
    rows.length ? table("Roles document", ["Name", "Role", "Key"], rows) : h("p", { class: "hint" }, "Nobody is in office yet."),
    h("p", { class: "hint" }, `${volunteers} volunteers have entries of their work. They may advise, and propose with seconds.`));
}

/** Who else holds the log, and who took it over. */
function mirrors({ mirrors, successions }) {
  fill(at("mirrors"),
    mirrors.length
      ? table("Mirrors", ["Name", "Address", "Key"], mirrors.map((one) => [one.name, one.url, code(one.key)]))
      : h("p", { class: "hint" }, "No mirror is listed: nobody could go on with this log if its relay were lost."),
    successions.map((one) => h("p", null, `${one.mirror.name} took the log over on `, moment(one.atMs),
      ` (entry ${one.index}), from its first ${one.from.toLocaleString("en")} entries on.`)));
}

function stopped({ pauses, quarantine, incidents, founded }) {
  const over = (pause) => (pause.inForce ? (pause.ratifiedMs ? "in force until stewards end it" : ["in force, ends ", countdown(pause.expiresMs)]) : "over");
  fill(at("stopped"),
    pauses.length
      ? h("div", { class: "cards" }, pauses.slice(0, 20).map((pause) => h("div", { class: "card", "data-pause": pause.id },
        h("h3", null, `Pause of ${scope(pause.scope)} `, h("span", { class: `tag ${pause.inForce ? "stopped" : ""}` }, pause.inForce ? "in force" : "over")),
        h("p", null, pause.reason),
        h("p", { class: "hint" }, `by ${pause.by.length ? list(pause.by) : "a trigger"} on `, moment(pause.sinceMs), "; ", over(pause),
          pause.resuming.length ? `; ${list(pause.resuming)} want it to end` : "", pause.ratifying.length ? `; ${list(pause.ratifying)} want it to last` : ""),
        pause.inForce && founded ? h("p", { class: "actions" },
          h("button", { type: "button", onclick: () => acts.sign({ kind: "resume", pause: pause.id }) }, "End it"),
          h("button", { type: "button", onclick: () => acts.sign({ kind: "ratify_pause", pause: pause.id }) }, "Let it last")) : null)))
      : h("p", { class: "hint" }, "Nothing is paused."),
    quarantine.length ? table("Quarantine", ["What", "State", "Why"], quarantine.map((one) =>
      [h("code", null, one.target), one.sinceMs ? ["since ", moment(one.sinceMs)] : "not in force", one.reason])) : null,
    incidents.length ? table("Incidents", ["What", "When", "Detail"], incidents.slice(0, 20).map((one) => [one.trigger, moment(one.atMs), one.detail])) : null);
}

const fraction = ({ num, den }) => `${num}/${den}`;

export function passes(rule) {
  const base = rule.of === "all" ? "of all who may vote" : "of the votes cast";
  return `${rule.more ? "more than " : ""}${fraction(rule.yes)} ${base}` +
    (rule.quorum.num ? `, with ${fraction(rule.quorum)} voting` : "") + (rule.advice ? ", volunteers not against" : "");
}

function rules(constitution) {
  const { gate, pause, parameters } = constitution;
  fill(at("rules"),
    table("How proposals pass", ["Kind", "Discussion", "Passes with"],
      Object.keys(KINDS).filter((kind) => constitution.rules[kind]).map((kind) => [kind, constitution.rules[kind]]).map(([kind, rule]) => [KINDS[kind], duration(rule.discussion_ms), passes(rule)])),
    h("details", { "data-name": "gate" }, h("summary", null, "Promotions, pauses and appeals"), facts(
      ["A promotion needs", `${gate.sign_offs} people who read and tried the eval card, and ${gate.attestations} auditors who derived the same parameters`],
      ["Worker-rounds audited or credible", `at least ${fraction(gate.covered)}`],
      ["Audit failures", `below ${fraction(gate.failures)}`],
      ["Loss", `better by more than ${fraction(gate.errors)} standard errors, on at least ${gate.shards} shards`],
      ["Triggers that succeed", `below ${fraction(gate.trigger)}`],
      ["A pause", `by a steward or ${pause.auditors} auditors; ends after ${duration(pause.expires_ms)}, unless more than ${fraction(pause.stewards)} of the stewards ratify it`],
      ["A run pauses by itself", `when its loss rises by more than ${fraction(pause.loss_rise)}, more than ${fraction(pause.audit_failures)} of a round’s audits fail, or one cluster has more than ${fraction(pause.cluster)} of its weight`],
      ["Appeals", `within ${duration(constitution.appeals_ms)}, decided without those who decided`],
      ["A volunteer’s proposal", `needs ${constitution.seconds} seconds`],
      ["Clocks", `a signed time may lie ${duration(constitution.skew_ms)} from the log’s`],
    )),
    parameters.length ? table("Parameters", ["Name", "Least", "Most", "At the start"], parameters.map((one) => [one.name, String(one.least), String(one.most), String(one.value)])) : null);
}

function decisions(view) {
  if (!view.decisions.length) return fill(at("decisions"), h("p", { class: "hint" }, "No decision took effect yet."));
  fill(at("decisions"), h("div", { class: "cards" }, view.decisions.slice(0, 50).map((one) => h("div", { class: "card" },
    h("h3", null, `${KINDS[one.kind] ?? one.kind}: ${one.subject}`),
    h("p", { class: "hint" }, `entry ${one.index}, `, moment(one.atMs), `; decided by ${list(one.deciders)}`),
    one.appealsUntilMs > Date.now() ? h("p", { class: "actions" }, h("button", {
      type: "button", onclick: () => acts.appeal(one),
    }, "Appeal"), h("span", { class: "hint" }, "until ", moment(one.appealsUntilMs))) : null))));
}

function theLog(view) {
  fill(at("log-facts"), facts(
    ["Name", view.origin], ["Key", h("code", null, log.key)], ["Entries", view.size.toLocaleString("en")],
    ["Root", h("code", null, view.root)], ["Last entry", view.lastMs ? moment(view.lastMs) : "none"],
    ["Signatures checked", String(view.report.signatures)],
    ["What the log alone cannot show", h("ul", { class: "plain" }, view.report.unchecked.map((one) => h("li", null, one)))],
  ));
}

addEventListener("hashchange", async () => {
  if (!log) return;
  await show(log);
  const shown = asked() ? at("proposal-title") : at("overview").querySelector("h1");
  shown.focus();
  scrollTo(0, 0);
});

look = await follow({
  onChange: show,
  elements: { progress: at("progress"), words: at("progress-words"), reading: at("reading"), problem: at("problem") },
});
tick(() => { if (log) show(log); });
