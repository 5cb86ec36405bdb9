// Which versions of which models a log lets people try, what has to happen where there is none, and what is said of one.

import { at, cardNumbers, code, facts, fill, h, list, moment } from "./page.js";
import * as format from "./format.js";
import { fetchBytes, loadGovernance } from "./trust.js";

/** Longest eval card, in bytes. */
const MAX_CARD_BYTES = 2 << 20;

/** All versions that were promoted, those in use first. */
export function versions(log) {
  const found = log.overview().models.flatMap(({ name }) => {
    const model = log.model(name);
    return model.versions.map((version, i) => ({
      model: name, number: i + 1, version, inUse: version.inUse, paused: model.paused,
      candidate: version.lineage.candidate,
      request: model.runs.find(({ run }) => run === version.lineage.run)?.request ?? null,
    })).reverse();
  });
  return found.sort((one, other) => Number(other.inUse) - Number(one.inUse));
}

/** Why a link asks for something that cannot be tried; `null` if it can. */
export function unproven(log, { model, version }) {
  const known = model === null ? null : log.model(model);
  if (model !== null && !known) return `The log knows no model ${model}.`;
  if (version === null) return known && !known.current ? `No version of ${model} was promoted yet.` : null;
  const candidate = (known ? [known] : log.overview().models.map(({ name }) => log.model(name)))
    .some(({ candidates }) => candidates.some((one) => one.candidate === version));
  return candidate
    ? "These parameters are a candidate that people have not promoted: it is not run here."
    : "The log has no promotion of these parameters: without that proof they are not run here.";
}

/** What has to happen before a model can be tried here. */
export function missing(log) {
  const { founded, models } = log.overview();
  const candidates = models.reduce((sum, model) => sum + model.candidates, 0);
  const steps = [
    [founded, "The operator names the people who decide."],
    [models.length > 0, "A run that they allowed trains a model."],
    [candidates > 0, "A candidate of it is put to the log, and volunteers evaluate it."],
    [false, "Auditors derive the same parameters, people read its eval card and try it, and stewards vote for its promotion."],
  ];
  return h("ol", { class: "ways" }, steps.map(([done, words]) =>
    h("li", null, done ? h("span", { class: "yes" }, "✓ done: ") : null, words)));
}

/** How sure the model is, in words. */
function sureness(loss) {
  const nats = loss / 1e6;
  return `${nats.toFixed(2)} nats a token: as unsure as somebody who picks one of ${format.count(Math.round(Math.exp(nats)))} at random`;
}

/** What the model is. `sizes` are what the log promises; `null` until they are known. */
export function describe(choice, sizes) {
  const { lineage } = choice.version;
  const rounds = lineage.rounds ? lineage.rounds[1] - lineage.rounds[0] + 1 : 0;
  fill(at("about-facts"), facts(
    ["Size", sizes
      ? `${format.count(sizes.parameters)} parameters in ${sizes.layers} layers, ${format.bytes(sizes.bytes)}. Well-known assistants have ten thousand times as many and more.`
      : null],
    ["Sees at once", sizes ? `${format.count(sizes.context)} tokens, of ${format.count(sizes.vocabulary)} that there are` : null],
    ["Learned from", lineage.dataSets.length ? list([...new Set(lineage.dataSets.map((set) => `${set.name} (license: ${set.license})`))]) : "data sets that the log does not name"],
    ["Trained by", `${lineage.contributors.length} volunteers in ${format.count(rounds)} rounds`],
    ["On text that it did not know", lineage.card ? sureness(lineage.card.loss) : null],
    ["Lineage", h("a", { href: `/models.html#model=${encodeURIComponent(choice.model)}` }, "where it comes from, and who approved it")],
  ));
}

/** What is proven, and by what; `opened` once the files are checked too. */
export function proof(log, choice, opened) {
  const { version, candidate } = choice;
  const { size, root, report } = log.overview();
  const mark = (done) => h("span", { class: done ? "yes" : "" }, done ? "✓ " : "… ");
  fill(at("proof"), h("ul", { class: "plain" },
    h("li", null, mark(true), `The log: ${format.count(size)} entries read here, under the root `, code(root), " that its key signed."),
    h("li", null, mark(true), `The promotion: entry ${version.index} of `, moment(version.promotedMs), ", approved by ",
      list(version.approvals.map(({ name }) => name)), ". It follows from what was measured, signed and voted before, all checked here."),
    h("li", null, mark(opened), opened
      ? "The files: sizes, tokenizer and parameters have the hashes that the log names: "
      : "The files: sizes, tokenizer and parameters are checked against the hashes that the log names: ", code(candidate)),
    report.errorCount ? h("li", { class: "no" }, `${report.errorCount} entries of this log do not follow from those before; what they say is left out.`) : null));
}

const SECTIONS = {
  loss: "Loss", samples: "Samples", memorization: "Memorization", triggers: "Hidden triggers", bias: "Bias", toxicity: "Toxicity",
};

/** The eval card: its numbers from the log, and what it says of its own limits, if it can be had and `isShown` still holds. */
export async function card({ version: { lineage } }, isShown) {
  fill(at("card"), cardNumbers(lineage.card));
  if (!lineage.card) return;
  const hash = lineage.card.card;
  let limits;
  try {
    const bytes = await fetchBytes(`/api/v1/blobs/${hash}`);
    if (bytes.length > MAX_CARD_BYTES) throw new Error("it is too long");
    if ((await loadGovernance()).blobHash(bytes) !== hash) throw new Error("it is not the one that the log names");
    const text = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    limits = facts(...Object.entries(SECTIONS).map(([name, title]) => [title, text[name]?.limits ?? null]));
  } catch (error) {
    limits = h("p", { class: "hint" }, `The card itself cannot be shown: ${error?.message ?? error}`);
  }
  if (isShown()) fill(at("card"), cardNumbers(lineage.card), h("h3", null, "What these tests do not show"), limits);
}
