// What the widget's frame loads once a person agreed: looks at the relay's log, then lends, as the relay's own page does,
// but through the relay only, remembering no inputs, and only while Stop can be seen.

import * as conditions from "./conditions.js";
import * as format from "./format.js";
import * as identity from "./identity.js";
import { Session } from "./session.js";
import { watchSwitch } from "./widget-guard.js";
import * as witness from "./witness.js";

/** The version of the consent text in widget.html. Raise it with every change of what people agree to. */
const TEXT_VERSION = 1001;
/** One consent in an embed counts for so long, in hours. */
const HOURS = 1;
/** Work goes on for so long while Stop is scrolled out of the window, in milliseconds. */
const AWAY_MS = 60_000;
/** And for so long while something lies over it. */
const COVERED_MS = 1_000;

const at = (id) => document.getElementById(id);
const { body } = document;

/**
 * Lends this tab.
 * @param {{site: string, preset: string, project?: string, over: (title: string, words: string) => void, tell: (message: object) => void,
 *   say: (state: string) => void}} options
 */
export function lend({ site, preset, project, over, tell, say }) {
  const key = identity.key();
  const ignore = { hidden: false, onBattery: false, mobileData: false, anotherTab: false };
  const startedAt = performance.now();
  let session = null;
  let watch = null;
  let last = null;
  let ended = false;
  /** Whether Stop cannot be seen. */
  let unseen = false;
  let hiding;

  const state = (name, reason) => {
    body.dataset.state = name;
    at("running-title").textContent = format.STATES[name] ?? name;
    at("reason").textContent = reason;
    at("pause").textContent = name === "paused" ? "Resume" : "Pause";
    say(name === "paused" ? "paused" : "lending");
  };

  const now = () => {
    const found = conditions.conditions();
    return { ...found, hidden: found.hidden || unseen };
  };

  const stopWatching = watchSwitch(at("stop"), (how) => {
    body.dataset.stop = how;
    clearTimeout(hiding);
    const set = (value) => {
      if (unseen === value) return;
      unseen = value;
      session?.conditions(now());
    };
    if (how === "seen") set(false);
    else hiding = setTimeout(() => set(true), how === "away" ? AWAY_MS : COVERED_MS);
  });

  const end = (title, words) => {
    if (ended) return;
    ended = true;
    stopWatching();
    clearTimeout(hiding);
    watch?.end();
    conditions.unclaim();
    over(title, words);
  };

  const finish = ({ failed, expired }) => {
    session = null;
    if (failed !== undefined) return end("This tab cannot compute", `${sentence(failed)} You can try again.`);
    const results = last?.accepted ?? 0;
    const time = format.time((performance.now() - startedAt) / 1e3);
    const done = results
      ? `${format.count(results)} verified ${results === 1 ? "result" : "results"} in ${time}: ${format.operations(last.acceptedGflop)} operations.`
      : `Nothing was completed in ${time}.`;
    end(results ? "Thank you" : "Stopped", `${done} Nothing runs any more.${expired ? " The time that you agreed to is over." : ""}`);
  };

  const fail = (failed) => {
    if (session) session.fail(failed);
    else finish({ failed });
  };

  const hear = (view) => {
    if (ended || view.state === "idle") return;
    if (view.accepted !== (last?.accepted ?? 0)) tell({ type: "result", accepted: view.accepted });
    last = view;
    body.dataset.backend = view.backend ?? "";
    body.dataset.accepted = view.accepted;
    body.dataset.rejected = view.rejected;
    at("accepted").textContent = format.count(view.accepted);
    at("accepted-word").textContent = view.accepted === 1 ? "verified result" : "verified results";
    at("share").value = Math.min(1, view.measuredShare);
    at("share-words").textContent = `${format.percent(view.measuredShare)} of at most ${format.percent(view.allowedShare)}`;
    at("data").textContent = `${format.bytes(view.bytesIn)} in, ${format.bytes(view.bytesOut)} out. Energy, estimated: ${format.energy(view.busyS, view.backend)}.`;
    const around = conditions.conditions();
    const waiting = view.state === "waiting";
    at("override").hidden = !waiting || unseen || !(around.onBattery && !ignore.onBattery || around.mobileData && !ignore.mobileData);
    if (waiting && unseen && !around.hidden) state("waiting", "Stop cannot be seen: something lies over it, or it is scrolled away.");
    else state(view.state, view.state === "running" && view.tile ? `A tile of ${view.tile[0]} × ${view.tile[1]}, ${view.tile[2]} deep.` : view.reason);
  };

  const begin = async () => {
    state("starting", "Checking the relay’s public log.");
    await conditions.claim();
    if (ended) return;
    watch = new witness.Watch({
      key,
      onLook: () => {},
      onAlarm: ({ message }) => fail(`This relay’s log contradicts what this browser saw before: ${message}`),
      onUnchecked: (why) => fail(`The relay’s public log could not be checked: ${why}`),
      isWorking: () => last?.state === "running",
    });
    const found = await watch.start();
    if (ended) return;
    if (!["consistent", "none"].includes(found.state)) return fail(`The relay’s public log could not be checked: ${found.why ?? "it raised an alarm"}`);
    session = new Session({
      key,
      log: witness.memory(),
      origin: `embed:${site}`,
      textVersion: TEXT_VERSION,
      remember: false,
      onView: hear,
      onEnd: finish,
    });
    // Relay only: the person was told that no other volunteer sees this device's address.
    session.start({ preset, backend: "auto", hours: HOURS, conditions: now(), ignore, peers: false });
    conditions.onChange(() => session?.conditions(now()));
    conditions.observe();
    if (project) await describe(project).catch(() => {});
  };

  if (witness.alarm()) end("This tab cannot compute", "This relay’s log contradicts what this browser saw before. Its own page says more.");
  else begin().catch((error) => fail(String(error?.message ?? error)));

  return {
    stop() {
      if (session) session.stop();
      else finish({});
    },
    pause() {
      if (body.dataset.state === "paused") session?.resume();
      else session?.pause();
    },
    override() {
      const found = conditions.conditions();
      for (const name of ["onBattery", "mobileData"]) ignore[name] ||= found[name];
      session?.ignore(ignore);
    },
    kill() {
      if (session) session.kill();
      else finish({});
    },
  };
}

/** How far the project is that the page around speaks of. Where the relay has none of that name, nothing is said. */
async function describe(project) {
  const answer = await fetch(`/api/v1/projects/${project}`, { credentials: "omit" });
  if (!answer.ok) return;
  const { name, done, total } = await answer.json();
  at("project").textContent = `${name}: ${total ? Math.floor((done / total) * 100) : 0} % done.`;
  at("project").hidden = false;
}

const sentence = (words) => (/[.!?]$/.test(words) ? words : `${words}.`);
