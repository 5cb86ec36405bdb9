// The models' pages: each version's lineage, sources, contributors, card, approvals and dissent.

import { follow } from "./log.js";
import { at, cardNumbers, code, facts, fill, gate, h, list, moment, table, tick, voices } from "./page.js";
import { timeline } from "./proposal-timeline.js";

let log = null;

/** The model that the address names; `null` for the list. */
function asked() {
  try {
    return location.hash.startsWith("#model=") ? decodeURIComponent(location.hash.slice(7)) : null;
  } catch {
    return null;
  }
}

const address = (name) => `#model=${encodeURIComponent(name)}`;

function show(found) {
  log = found;
  const name = asked();
  at("models").hidden = name !== null;
  at("model").hidden = name === null;
  document.body.dataset.view = name ?? "models";
  if (name === null) all(log.overview());
  else one(name, log.model(name));
}

function all({ models }) {
  document.title = "Models · Potluck";
  fill(at("list"), models.length
    ? h("div", { class: "cards" }, models.map((model) => h("article", { class: "card" },
      h("h3", null, h("a", { href: address(model.name) }, model.name), " ",
        h("span", { class: `tag ${model.current ? "in-use" : ""}` }, model.current ? "in use" : "no version yet"), " ",
        model.paused ? h("span", { class: "tag stopped" }, "paused") : null),
      h("p", { class: "hint" }, `${model.versions} versions, ${model.candidates} candidates`))))
    : h("p", { class: "hint" }, "No run of this log trains a model that people decide about yet."));
}

function one(name, model) {
  at("model-title").textContent = model ? name : `The log knows no model ${name}`;
  document.title = `${name} · Potluck`;
  if (!model) return fill(at("model-facts"));
  fill(at("model-facts"),
    model.paused ? h("p", { class: "notice alarm" }, h("b", null, "Paused. "), model.paused.reason) : null,
    h("section", { class: "panel" }, h("h2", null, "Versions"),
      model.changes.length ? history(model) : h("p", { class: "hint" }, "No candidate was promoted yet.")),
    [...model.versions].reverse().map((version, i) => versionPanel(name, version, model.versions.length - i)),
    h("section", { class: "panel" }, h("h2", null, "Candidates that were not promoted"),
      model.candidates.length
        ? model.candidates.map((candidate) => h("details", { "data-name": candidate.candidate }, h("summary", null, "Candidate ", code(candidate.candidate)), lineage(candidate)))
        : h("p", { class: "hint" }, "There are none.")),
    h("section", { class: "panel" }, h("h2", null, "Runs"),
      table("Runs that train it", ["Run", "Since", "Rounds", "Last loss", "State"], model.runs.map((run) => [
        [run.name || "unnamed", " ", code(run.run)], moment(run.atMs), run.rounds ? `${run.rounds[0]} to ${run.rounds[1]}` : "none yet",
        run.loss === null ? "unknown" : `${(run.loss / 1e6).toFixed(4)} nats`, run.paused ? "paused" : "not paused"]))));
}

/** Promotions and rollbacks, in order: nothing is removed from the record. */
function history({ changes }) {
  return h("ol", { class: "timeline" }, changes.map((change) => h("li", { class: "past" }, moment(change.atMs), ": ",
    change.rollback ? `rolled back to version ${change.version} ` : `version ${change.version} promoted `, code(change.to),
    h("small", null, ` entry ${change.index}, `, h("a", { href: `/governance.html#proposal=${change.proposal}` }, "its proposal")))));
}

function versionPanel(name, version, number) {
  const decision = log.proposal(version.proposal);
  return h("section", { class: "panel", "data-version": number },
    h("h2", null, `Version ${number} `, version.inUse ? h("span", { class: "tag in-use" }, "in use") : null),
    h("p", null, h("a", { href: `/model.html?model=${encodeURIComponent(name)}#version=${version.lineage.candidate}` }, "Try it in this tab")),
    facts(
      ["Promoted", moment(version.promotedMs), `, entry ${version.index}`],
      ["A rollback leads to", version.rollbackTarget ? code(version.rollbackTarget) : "no version: this was the first"],
      ["Appeals", version.appeals.length ? version.appeals.map((id) => h("a", { href: `/governance.html#proposal=${id}` }, code(id))) : "none", "; possible until ", moment(version.appealsUntilMs)],
    ),
    h("h3", null, "Approved by"), voices(version.approvals),
    h("h3", null, "Dissent"), voices(version.dissent, "Nobody voted against it."),
    version.abstained.length ? [h("h3", null, "Abstained"), voices(version.abstained)] : null,
    h("h3", null, "Read and tried the eval card"), voices(version.signedOff),
    h("details", { "data-name": `lineage ${number}`, open: version.inUse }, h("summary", null, "Where it comes from"), lineage(version.lineage)),
    decision ? h("details", { "data-name": `timeline ${number}` }, h("summary", null, "How it was decided"), h("p", null, decision.rationale), timeline(decision.events)) : null);
}

function lineage(found) {
  return h("div", null,
    facts(
      ["Parameters", code(found.candidate, 64)], ["Checkpoint", code(found.checkpoint, 64)],
      ["Run", found.runName || "unnamed", " ", code(found.run)], ["Started from", code(found.startedFrom, 64)],
      ["Rounds", found.rounds ? `${found.rounds[0]} to ${found.rounds[1]}` : "none"],
      found.rebuiltWithout.length ? ["Made again without", found.rebuiltWithout.map((one) => h("code", null, one, " "))] : null,
      ["Derived again by", list(found.reproducedBy)],
      found.differedFor.length ? ["Came out otherwise for", list(found.differedFor)] : null,
    ),
    found.dataSets.length ? table("Data", ["Name", "Tokens", "From", "License", "Manifest"], found.dataSets.map((set) =>
      [set.name, set.tokens.toLocaleString("en"), set.source, set.license, code(set.manifest)])) : null,
    table("Contributors", ["Volunteer", "Worker-rounds", "Audited", "Share of the weight"], found.contributors.map((one) =>
      [h("code", null, one.volunteer), String(one.rounds), `${one.passed} passed, ${one.failed} failed`, `${(one.sharePpm / 1e4).toFixed(2)} %`])),
    h("h3", null, "Eval card"), cardNumbers(found.card), gate(found.checks));
}

addEventListener("hashchange", () => {
  if (!log) return;
  show(log);
  (asked() === null ? at("models").querySelector("h1") : at("model-title")).focus();
  scrollTo(0, 0);
});

await follow({
  onChange: show,
  elements: { progress: at("progress"), words: at("progress-words"), reading: at("reading"), problem: at("problem") },
});
tick(() => { if (log) show(log); });
