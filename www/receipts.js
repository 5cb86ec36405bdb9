// Receipts: one's own, and a check of any that needs no network once the page is there.

import * as identity from "./identity.js";
import * as witness from "./witness.js";
import { at, code, facts, h, moment } from "./page.js";
import { fetchText, load } from "./trust.js";

/** Longest file that is read, in bytes: a receipt has an entry of up to 64 KiB in base64, a proof and a note of up to 1 MB. */
const MAX_FILE_BYTES = 2 << 20;

const REFUSED = ["result_rejected", "update_rejected"];
const KINDS = {
  result_accepted: "Result accepted", result_rejected: "Result refused", update_accepted: "Update accepted",
  update_rejected: "Update refused", audit: "Update replayed",
};

const trust = await load();

/** The text or bytes that were given last. */
let given = null;

/** Whose signature counts, unless the person says otherwise. */
async function fillKey() {
  const known = witness.memory()?.key;
  if (known) {
    at("log-key").value = known;
    at("log-key-note").textContent = "This is the key that this browser remembers of this relay.";
    return;
  }
  try {
    at("log-key").value = (await fetchText("/log/key")).trim();
    at("log-key-note").textContent = "This is the key that the relay shows now; this browser has not seen it before. Compare it with what its operator publishes.";
  } catch (error) {
    at("log-key-note").textContent = `The relay shows no key (${error.message}): put in the key of the receipt’s log.`;
    at("trusted").open = true;
  }
}

const trusted = () => JSON.stringify({
  log: at("log-key").value.trim(),
  witnesses: at("witnesses").value.split("\n").map((line) => line.trim()).filter(Boolean),
  threshold: Number(at("threshold").value),
});

/** What a receipt proves; throws what is wrong with it. */
function verify(bytes) {
  const receipts = new trust.Receipts(trusted());
  try {
    return JSON.parse(receipts.verify(bytes));
  } finally {
    receipts.free();
  }
}

function check() {
  const pasted = at("pasted").value;
  const bytes = given ?? new TextEncoder().encode(pasted);
  try {
    if (!bytes.length) throw new Error("choose a file, or paste a receipt");
    const proved = verify(bytes);
    document.body.dataset.receipt = "holds";
    at("checked").replaceChildren(
      h("p", { class: "yes" }, `✓ It holds: entry ${proved.index.toLocaleString("en")} of ${proved.size.toLocaleString("en")} of ${proved.origin}.`),
      facts(
        ["Kind", proved.kind.replaceAll("_", " ")], ["Logged", moment(proved.atMs)],
        ["Witnesses", proved.cosigners.length ? proved.cosigners.map((one) => [one.name, ", ", moment(one.timestampS * 1000), " "]) : "none asked for"],
        ...fields(proved.entry),
      ));
  } catch (error) {
    fails(error?.message ?? error);
  }
}

function fails(why) {
  document.body.dataset.receipt = "fails";
  at("checked").replaceChildren(h("p", { class: "no" }, `✗ It proves nothing: ${why}.`));
}

/** What an entry says, in its own words. */
const fields = (entry) => Object.entries(entry)
  .filter(([name]) => !["v", "kind", "at_ms"].includes(name))
  .map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? h("pre", null, JSON.stringify(value, null, 1)) : String(value)]);

async function take(file) {
  if (!file) return;
  if (file.size > MAX_FILE_BYTES) return fails("the file is longer than any receipt");
  given = new Uint8Array(await file.arrayBuffer());
  at("pasted").value = new TextDecoder().decode(given);
  check();
}

/** Shows one's own entries, and the next ones for who wants more. */
async function yours(name, from) {
  let page;
  try {
    page = JSON.parse(await fetchText(`/api/v1/volunteers/${name}/receipts?from=${from}`));
  } catch (error) {
    at("yours-note").textContent = `They cannot be read at the moment: ${error.message}`;
    return;
  }
  const list = at("yours").firstElementChild ?? at("yours").appendChild(h("ul", { class: "cards plain" }));
  list.append(...page.entries.map(row));
  document.body.dataset.receipts = list.childElementCount;
  at("yours-note").replaceChildren(list.childElementCount
    ? "What this browser’s volunteer did, under the name "
    : "Nothing yet. Results show here about a second after they were checked. The name of this browser’s volunteer is ", code(name, 64), ".");
  at("more").hidden = !page.more;
  at("more").onclick = () => yours(name, page.next);
}

function row({ index, entry }) {
  const refused = REFUSED.includes(entry.kind) || entry.verdict === "failed";
  const outcome = h("p", { role: "status" });
  const save = h("button", { type: "button", onclick: () => fetchReceipt(index, outcome, true) }, "Save");
  const verifyIt = h("button", { type: "button", onclick: () => fetchReceipt(index, outcome, false) }, "Check");
  const about = entry.job ?? entry.run;
  return h("li", { class: "card", "data-index": index, "data-kind": entry.kind },
    h("h3", null, KINDS[entry.kind] ?? entry.kind, " ", h("span", { class: `tag ${refused ? "failed" : "passed"}` }, refused ? "not counted" : "counts")),
    h("p", null, refused && entry.reason ? `Reason: ${entry.reason}. ` : "", entry.check ? `Checked by ${entry.check}. ` : ""),
    h("p", { class: "hint" }, `entry ${index}, `, moment(entry.at_ms), entry.shard ? `, shard ${entry.shard}` : "",
      entry.round === undefined ? "" : `, round ${entry.round}`, about ? [` of ${entry.job ? "job" : "run"} `, code(about)] : null),
    h("p", { class: "actions" }, verifyIt, save), outcome);
}

/** Fetches the receipt of an entry; checks it, or saves it as a file. */
async function fetchReceipt(index, outcome, save) {
  try {
    const text = await fetchText(`/api/v1/log/receipts/${index}`);
    const proved = verify(new TextEncoder().encode(text));
    if (proved.index !== index) throw new Error(`the receipt is of entry ${proved.index}`);
    outcome.textContent = `✓ It holds: entry ${index} of ${proved.size}.`;
    outcome.className = "yes";
    if (!save) return;
    const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: `receipt-${index}.tlog-proof` });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    outcome.textContent = `✗ ${error?.message ?? error}`;
    outcome.className = "no";
  }
}

at("file").addEventListener("change", () => take(at("file").files[0]));
at("pasted").addEventListener("input", () => { given = null; });
at("check").addEventListener("click", check);
const drop = at("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}

await fillKey();
document.body.dataset.ready = "yes";
// Only a volunteer who is remembered has a name to look for; none is made here.
if (identity.isKnown()) await yours(trust.publicKey(identity.key()), 0);
else at("yours-note").textContent = "This browser has lent nothing that it remembers.";
