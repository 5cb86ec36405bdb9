// What a person says into the log: its key, the forms, and the text that it signs.

import * as format from "./format.js";
import * as keys from "./keys.js";
import { at, duration, fill, h, list } from "./page.js";
import { fetchText, loadGovernance } from "./trust.js";

/** Kinds of proposals that are about a document, whose hash they name. */
const DOCUMENTS = ["roles", "constitution", "mirrors", "parameter"];
/** What a vote is open for beyond the shortest discussion: the person reads the text before it is logged. */
const MARGIN = 1.1;
const REPLACE = "The key that this browser keeps will be gone for good. Put another one in its place?";
/** Longest file that is read as a key, in bytes: 64 digits, and room for line ends. */
const MAX_KEY_FILE_BYTES = 1024;

export class Acts {
  #log = null;
  #view = null;
  #key = null;
  #text = null;
  /** Grows with each statement; the time will do. */
  #seq = 0;
  #filled = false;

  /** @param {() => void} onLogged called when something was logged */
  constructor(onLogged) {
    this.onLogged = onLogged;
    /** What the key is in this log. */
    this.holder = null;
    this.#bind();
  }

  /** The log was read anew. */
  async update(log, view) {
    this.#log = log;
    this.#view = view;
    this.#key = await keys.current();
    this.#showKey();
    if (!this.#filled) this.#fillClose();
    this.#filled = true;
  }

  #bind() {
    const mine = async (what) => {
      try {
        at("key-note").textContent = (await what()) ?? "";
      } catch (error) {
        at("key-note").textContent = error?.message ?? String(error);
      }
      this.#key = await keys.current();
      this.#showKey();
    };
    at("key-create").addEventListener("click", () => mine(async () => {
      if ((await keys.isKept()) && !confirm(REPLACE)) return "";
      await keys.create();
      return "Made. Its secret half stays in this browser and cannot be read out: whoever clears the browser’s data loses it.";
    }));
    at("key-file").addEventListener("change", () => mine(async () => {
      const [file] = at("key-file").files;
      if (!file) return "";
      at("key-file").value = "";
      if (file.size > MAX_KEY_FILE_BYTES) throw new Error("that is no key: the file is too long");
      const keep = at("key-keep").checked;
      if (keep && (await keys.isKept()) && !confirm(REPLACE)) return "";
      await keys.fromFile(await file.text(), keep);
      return keep ? "Read, and kept in this browser." : "Read. It is forgotten with this page.";
    }));
    at("key-copy").addEventListener("click", () => mine(async () => {
      await navigator.clipboard.writeText(this.#key.publicKey);
      return "Copied.";
    }));
    at("key-forget").addEventListener("click", () => mine(async () => {
      if (!confirm("Remove the key from this browser? A key that was made here is gone for good.")) return "";
      await keys.forget();
      return "Removed.";
    }));
    at("p-kind").addEventListener("change", () => this.#fillClose());
    this.#form("propose-form", () => this.#proposal());
    this.#form("pause-form", () => ({ kind: "pause", scope: at("pause-scope").value.trim(), reason: at("pause-reason").value.trim() }));
    this.#form("quarantine-form", () => ({
      kind: "quarantine", target: at("quarantine-target").value.trim(), lift: at("quarantine-lift").checked,
      reason: at("quarantine-reason").value.trim(),
    }));
    this.#form("attest-form", () => ({
      kind: "attest", subject: at("attest-subject").value.trim(), reproduces: at("attest-same").value === "yes",
    }));
    at("sign-now").addEventListener("click", (event) => {
      if (event.isTrusted) this.#send();
    });
    at("sign-close").addEventListener("click", () => at("sign").close());
  }

  #form(id, read) {
    at(id).addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await this.sign(await read());
      } catch (error) {
        this.#open("", error?.message ?? String(error));
      }
    });
  }

  #showKey() {
    const { publicKey, kept } = this.#key ?? {};
    document.body.dataset.key = publicKey ?? "";
    this.holder = publicKey && this.#log ? this.#log.holder(publicKey) : null;
    const { name, steward, auditor, operator, credit } = this.holder ?? {};
    const roles = [steward && "a steward", auditor && "an auditor", operator && "an operator"].filter(Boolean);
    const role = roles.length
      ? `${name}, ${list(roles)}`
      : credit ? "a volunteer with credit: you may advise, second, and propose with the seconds of others"
        : "nobody in this log: ask its stewards for a role, or its operator when it begins";
    fill(at("key-facts"), publicKey
      ? [h("p", null, "Your public key is ", h("code", { id: "public-key" }, publicKey), kept ? " (kept in this browser)." : " (for this page only)."),
        h("p", null, `Under it you are ${role}.`)]
      : h("p", null, "Whoever votes, signs with a key of its own. Others need to know its public half only."));
    for (const id of ["key-copy", "key-forget"]) at(id).hidden = !publicKey;
  }

  /** The shortest discussion that the rules allow, as a suggestion. */
  #fillClose() {
    const kind = at("p-kind").value;
    const rule = this.#view?.constitution.rules[kind];
    if (!rule) return;
    const least = Math.max(rule.discussion_ms * MARGIN, rule.discussion_ms + 60_000);
    const unit = [86_400_000, 3_600_000, 60_000, 1000].find((size) => least >= 2 * size) ?? 1000;
    at("p-unit").value = String(unit);
    at("p-closes").value = String(Math.ceil((least / unit) * 10) / 10);
    at("p-rule").textContent = `It has to be discussed for at least ${duration(rule.discussion_ms)}.`;
    const byDocument = DOCUMENTS.includes(kind);
    at("p-document-field").hidden = !byDocument;
    at("p-document").required = byDocument;
    // A mirror's hash is in the log, beside its name.
    const named = byDocument || kind === "succession";
    at("p-body").required = !named;
    at("p-body").parentElement.hidden = named;
    at("p-example").textContent = kind === "parameter" ? 'For example {"name":"rounds","value":20}.' : "It begins as the one in use: change what is to change.";
    at("p-document").value = byDocument && kind !== "parameter" ? JSON.stringify(this.#inUse(kind), null, 1) : "";
  }

  /** The document of a kind that is in force. */
  #inUse(kind) {
    if (kind !== "mirrors") return this.#view[kind];
    return { mirrors: this.#view.mirrors.map(({ name, url, key }) => ({ name, url, key })) };
  }

  async #proposal() {
    const kind = at("p-kind").value;
    const [value, unit] = [Number(at("p-closes").value), Number(at("p-unit").value)];
    let body = at("p-body").value.trim();
    if (DOCUMENTS.includes(kind)) {
      const { documentHash } = await loadGovernance();
      body = documentHash(kind, at("p-document").value);
    }
    if (kind === "succession" && !body) {
      const name = at("p-subject").value.trim();
      const mirror = this.#view.mirrors.find((mirror) => mirror.name === name);
      if (!mirror) throw new Error(`the log lists no mirror called ${name}; it lists ${list(this.#view.mirrors.map((mirror) => mirror.name), "none")}`);
      body = mirror.hash;
    }
    const opens = Date.now();
    return {
      kind: "propose", proposal: kind, subject: at("p-subject").value.trim(), body,
      diff: at("p-diff").value.trim() || undefined, rationale: at("p-rationale").value.trim(),
      opens, closes: opens + Math.round(value * unit),
    };
  }

  /** Asks why a decision was wrong. */
  appeal({ index, subject }) {
    const reason = prompt(`Why should “${subject}” (entry ${index}) be looked at again?`)?.trim();
    if (reason) this.sign({ kind: "appeal", decision: index, reason });
  }

  /** Shows the exact text of a statement, to be signed. */
  async sign(form) {
    const { statementText } = await loadGovernance();
    this.#seq = Math.max(Date.now(), this.#seq + 1);
    try {
      const text = statementText(JSON.stringify({ origin: this.#view.origin, seq: this.#seq, at_ms: Date.now(), ...form }));
      this.#open(text, this.#key ? "" : "You have no key in this browser: make one, or read one from a file, below.");
    } catch (error) {
      this.#open("", error?.message ?? String(error));
    }
  }

  #open(text, note) {
    this.#text = text;
    at("sign-text").textContent = text;
    at("sign-text").hidden = !text;
    at("sign-now").disabled = !text || !this.#key;
    at("sign-now").hidden = !text;
    at("sign-close").textContent = "Not now";
    this.#said("", note);
    if (!at("sign").open) at("sign").showModal();
    at("sign-title").focus();
  }

  #said(state, words) {
    at("sign-result").textContent = words;
    at("sign-result").className = state === "refused" ? "no" : state === "logged" ? "yes" : "";
    document.body.dataset.signed = state;
  }

  async #send() {
    const text = this.#text;
    at("sign-now").disabled = true;
    this.#said("", "Signing.");
    try {
      const { checkStatement } = await loadGovernance();
      const signature = await keys.sign(text);
      const id = checkStatement(text, this.#key.publicKey, signature);
      const answer = await fetchText("/api/v1/log/statements", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ body: text, key: this.#key.publicKey, signature }),
      });
      const { index } = JSON.parse(answer);
      document.body.dataset.statement = id;
      at("sign-close").textContent = "Done";
      at("sign-close").focus();
      this.#said("logged", `Logged as entry ${format.count(index)}. It shows here when the log’s next checkpoint is published, in about a second.`);
      this.onLogged();
    } catch (error) {
      // A new time and number are needed anyway: the text is made anew when it is asked for again.
      this.#said("refused", `Refused: ${error?.message ?? error}`);
    }
  }
}
