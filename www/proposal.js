// One proposal: votes, timeline, what is missing; for a promotion the eval card, and the candidate beside the incumbent.

import { KINDS, OUTCOMES, at, cardNumbers, code, countdown, anyJson, duration, facts, fill, gate, h, list, moment } from "./page.js";
import { timeline } from "./proposal-timeline.js";
import { sample } from "./sample.js";
import { fetchBytes, loadGovernance } from "./trust.js";

/** Tokens that the candidate and the version in use write. */
const TOKENS = 60;
/** Longest eval card that is read from a file, in bytes: samples and probes take some tens of kilobytes. */
const MAX_CARD_BYTES = 4 << 20;
const SVG = "http://www.w3.org/2000/svg";

export class Proposal {
  /** What was done before a sign-off: which cards were opened, and which candidates were tried. */
  #read = new Set();
  #tried = new Set();
  #page = null;

  constructor(acts) {
    this.acts = acts;
    at("try-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try();
    });
    at("tried").addEventListener("change", () => {
      const candidate = this.#page.promotion.candidate.parameters;
      if (at("tried").checked) this.#tried.add(candidate);
      else this.#tried.delete(candidate);
      this.#buttons();
    });
  }

  async show(log, id) {
    const page = log.proposal(id);
    if (this.#page?.id !== page?.id) {
      at("act-reason").value = "";
      at("try-result").replaceChildren();
      at("tried-elsewhere").hidden = true;
      at("tried").checked = false;
    }
    this.#page = page;
    at("proposal-title").textContent = page ? `${KINDS[page.kind] ?? page.kind}: ${page.subject}` : "There is no such proposal in the log";
    document.title = `${at("proposal-title").textContent} · Potluck`;
    for (const part of ["proposal-facts", "proposal-acts"]) at(part).hidden = !page;
    at("try").hidden = !page?.promotion?.candidate;
    if (!page) return;
    fill(at("proposal-facts"), this.#facts(page));
    this.#buttons();
  }

  #facts(page) {
    const { outcome: { state, tally }, promotion } = page;
    document.body.dataset.outcome = state;
    return [
      h("div", { class: "panel" },
        h("p", null, h("span", { class: `tag ${state}` }, page.applied === null ? OUTCOMES[state] : `in effect since entry ${page.applied}`)),
        h("p", { id: "rationale" }, page.rationale),
        page.diff ? h("pre", null, page.diff) : null,
        facts(
          ["Proposed by", page.by ?? code(page.byKey), ", ", moment(page.atMs)],
          ["What exactly", code(page.body, 64)],
          ["Votes count", "from ", moment(page.opens), " to ", moment(page.closes), ": ", countdown(page.closes, "closed")],
          ["Discussion", duration(page.rule.discussion_ms)],
          page.secondsNeeded ? ["Seconds", `${page.seconds} of ${page.secondsNeeded}`] : null,
          page.reproducedBy.length ? ["Reproduced by", list(page.reproducedBy)] : null,
          page.differedFor.length ? ["Came out otherwise for", list(page.differedFor)] : null,
        )),
      h("div", { class: "panel" }, h("h2", null, "Votes"), this.#votes(page, tally)),
      promotion ? this.#promotion(promotion, page.applied) : null,
      h("div", { class: "panel" }, h("h2", null, "Timeline"), timeline(page.events)),
    ];
  }

  #votes({ votes, voters }, tally) {
    const silent = voters.filter((name) => !votes.some((vote) => vote.name === name));
    return [
      tally ? h("p", { id: "tally" }, `${tally.yes} yes, ${tally.no} no, ${tally.abstain} abstained of ${tally.eligible} who may vote`) : null,
      tally ? bar(tally) : null,
      tally ? facts(
        ["Enough for it", tally.shareMet ? h("span", { class: "yes" }, "✓ yes") : h("span", { class: "no" }, "✗ not yet")],
        ["Enough voted", tally.quorumMet ? h("span", { class: "yes" }, "✓ yes") : h("span", { class: "no" }, "✗ not yet")],
        ["Volunteers", `${tally.adviceYes} for, ${tally.adviceNo} against`],
      ) : null,
      h("ul", { class: "plain" }, votes.map((vote) => h("li", null, h("b", null, vote.name), `: ${vote.vote}`,
        vote.reason ? [", ", h("q", null, vote.reason)] : null, h("small", null, ` entry ${vote.index}`)))),
      silent.length ? h("p", { class: "hint" }, `Not voted: ${list(silent)}.`) : null,
    ];
  }

  #promotion(promotion, applied) {
    const { missing, card } = promotion;
    return [
      applied === null && h("div", { class: "panel", id: "missing" }, h("h2", null, "What is missing"),
        missing.length ? h("ul", null, missing.map((step) => h("li", null, step))) : h("p", { class: "yes" }, "✓ Nothing: it may be promoted.")),
      h("div", { class: "panel" }, h("h2", null, "Eval card"), cardNumbers(card), gate(promotion.checks),
        facts(["Read and tried by", list(promotion.signedOff)], ["Needed", String(promotion.signOffsNeeded ?? "")]),
        card ? h("p", { class: "actions" }, h("button", { type: "button", id: "open-card", onclick: () => this.#open(card.card) }, "Open the card")) : null,
        card ? h("div", { id: "card" }) : null),
    ];
  }

  /** Fetches the card, and shows it if it is the one that the log names. */
  async #open(hash) {
    at("card").replaceChildren(h("p", { class: "hint" }, "Fetching the card."));
    try {
      await this.#showCard(hash, await fetchBytes(`/api/v1/blobs/${hash}`));
    } catch (error) {
      const read = async (event) => {
        const [file] = event.target.files;
        if (file && file.size <= MAX_CARD_BYTES) await this.#showCard(hash, new Uint8Array(await file.arrayBuffer()));
      };
      at("card").replaceChildren(
        h("p", null, `The card itself is not to be had here (${error.message}). Whoever has it can show it from a file:`),
        h("p", { class: "actions" }, h("label", { class: "button" }, "Open the card from a file ",
          h("input", { type: "file", class: "visually-hidden", id: "card-file", onchange: read }))));
    }
  }

  async #showCard(hash, bytes) {
    const { blobHash } = await loadGovernance();
    if (blobHash(bytes) !== hash) {
      at("card").replaceChildren(h("p", { class: "notice alarm" }, "This is not the card that the log names: its hash is another one."));
      return;
    }
    let shown;
    try {
      shown = anyJson(JSON.parse(new TextDecoder().decode(bytes)));
    } catch {
      shown = h("pre", null, new TextDecoder().decode(bytes));
    }
    at("card").replaceChildren(...[shown].flat(Infinity).filter(Boolean));
    this.#read.add(hash);
    this.#buttons();
  }

  /** Lets the candidate and the version in use write, from the same prompt and seed. */
  async #try() {
    const { candidate, incumbent } = this.#page.promotion;
    const settings = { prompt: at("try-prompt").value, seed: Number(at("try-seed").value), tokens: TOKENS };
    const result = at("try-result");
    result.replaceChildren(h("p", { class: "hint" }, "They write."));
    const written = await Promise.all([candidate, incumbent].map((one) => (one ? sample(one, settings) : null)));
    const [mine, theirs] = written;
    at("tried-elsewhere").hidden = mine.text !== undefined;
    if (mine.text === undefined) {
      result.replaceChildren(h("p", { class: "notice" }, mine.problem));
      return;
    }
    result.replaceChildren(h("div", { class: "pair" },
      h("div", null, h("h3", null, "Candidate"), h("pre", null, mine.text)),
      h("div", null, h("h3", null, "Version in use"), h("pre", null, theirs ? theirs.text ?? theirs.problem : "There is none: this would be the first."))));
    this.#tried.add(candidate.parameters);
    this.#buttons();
  }

  /** What can be said about it, and what has to be done before. */
  #buttons() {
    const { id, kind, outcome, promotion } = this.#page;
    const reason = () => at("act-reason").value.trim() || undefined;
    const say = (words, form, disabled, attributes) =>
      h("button", { type: "button", disabled, onclick: () => this.acts.sign(form()), ...attributes }, words);
    const buttons = [];
    // After the close as well: the log says why that is too late.
    for (const [vote, words] of [["yes", "Vote yes"], ["no", "Vote no"], ["abstain", "Abstain"]]) {
      buttons.push(say(words, () => ({ kind: "vote", proposal: id, vote, reason: reason() }), false, { "data-vote": vote }));
    }
    const who = this.acts.holder;
    if (who?.credit) {
      buttons.push(say("Advise yes", () => ({ kind: "advise", proposal: id, vote: "yes" })), say("Advise no", () => ({ kind: "advise", proposal: id, vote: "no" })));
      if (outcome.state === "unseconded") buttons.push(say("Second it", () => ({ kind: "second", proposal: id })));
    }
    let hint = "Votes can be changed until the close; the last one counts.";
    if (kind === "promote" && promotion?.card) {
      const { card, candidate } = promotion.card;
      const [read, tried] = [this.#read.has(card), this.#tried.has(candidate)];
      buttons.push(say("Sign that I read and tried it", () => ({ kind: "sign_off", candidate, card, note: reason() }), !(read && tried), { id: "sign-off" }));
      const left = [read ? null : "open the eval card", tried ? null : "try the candidate beside the version in use"].filter(Boolean);
      if (left.length) hint = `Before you can sign that you read and tried it: ${list(left)}. ${hint}`;
    }
    at("act-buttons").replaceChildren(...buttons);
    at("act-hint").textContent = hint;
  }
}

/** Votes as parts of all who may vote. Color is not the only sign: the numbers stand above. */
function bar({ eligible, yes, no, abstain }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, eligible)} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  let x = 0;
  for (const [name, width] of [["yes-part", yes], ["abstain-part", abstain], ["no-part", no]]) {
    const part = document.createElementNS(SVG, "rect");
    for (const [key, value] of Object.entries({ class: name, x, y: 0, width, height: 1 })) part.setAttribute(key, value);
    svg.append(part);
    x += width;
  }
  return h("div", { class: "votes", "aria-hidden": "true" }, svg);
}
