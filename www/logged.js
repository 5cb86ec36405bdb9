// Whether the relay's public log holds the job or run that it asks this tab to work for.

import { Refusal, fetchBytes, load } from "./trust.js";

/** Kinds of entries that begin a job or run, and the field that names it. */
const BEGINNINGS = { job: "job", run: "run" };

/** Checks the receipt of a job or run by the log's key. Resolves with `{logged, why}`: see worker.js. */
export async function isLogged(log, job) {
  if (!log) return { logged: null, why: "the relay keeps no log" };
  try {
    const receipt = await fetchBytes(`/api/v1/log/jobs/${job}`);
    const trust = await load();
    const receipts = new trust.Receipts(JSON.stringify({ log: log.key }));
    try {
      const { kind, entry } = JSON.parse(receipts.verify(receipt));
      const named = entry[BEGINNINGS[kind]];
      if (named === job) return { logged: true, why: "" };
      return { logged: false, why: `the receipt is about something else: ${kind} ${named ?? ""}` };
    } finally {
      receipts.free();
    }
  } catch (error) {
    // Relays before this route say 404, and so does one that hides something: who asks decides what to make of it.
    const logged = error instanceof Refusal ? null : false;
    return { logged, why: String(error?.message ?? error) };
  }
}
