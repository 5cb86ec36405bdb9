// What can be joined on this relay: who runs it, what is computed and why, how far it is.

import * as format from "./format.js";
import { at, code, fill, h, table } from "./page.js";
import { KINDS, STATES, outcome, people, progress, what } from "./project.js";
import { publicJson, sleep, visible } from "./tokens.js";

/** Pause between two looks. */
const LOOK_MS = 5000;
/** Longest pause while the relay does not answer. */
const MAX_AWAY_MS = 120_000;
/** Ended runs that are listed. */
const MAX_ENDED = 10;

function card(project) {
  const open = project.state === "running";
  const of = `${project.name || "unnamed"}: ${progress(project)}`;
  return h("article", { class: "card project", "data-id": project.id },
    h("p", { class: "hint" }, KINDS[project.kind] ?? project.kind, " ",
      h("span", { class: `tag ${open ? "open" : "stopped"}` }, STATES[project.state] ?? project.state)),
    h("h3", null, project.name || "unnamed"),
    h("p", null, what(project)),
    project.why ? h("p", null, h("b", null, "Why: "), h("q", null, project.why)) : null,
    project.reason ? h("p", null, h("b", null, "Why it waits: "), project.reason) : null,
    h("progress", { max: Math.max(1, project.total), value: project.done, "aria-label": of }),
    h("p", { class: "hint" }, `${progress(project)}. ${people(project)}`),
    outcome(project) ? h("p", null, outcome(project)) : null,
    h("p", { class: "actions" },
      open ? h("a", { class: "button primary", href: `/join/${project.id}`, "aria-label": `Join ${project.name || "this project"}` }, "Join") : null,
      project.kind === "training" ? h("a", { href: `/results.html#run=${project.id}` }, "Its figures") : null,
      project.candidate ? h("a", { href: `/models.html#model=${encodeURIComponent(project.model)}` }, "The model") : null));
}

function show(projects, runs) {
  document.body.dataset.projects = projects.length;
  fill(at("open"), projects.length
    ? h("div", { class: "cards wide" }, projects.map(card))
    : h("p", { class: "empty" }, "Nothing runs here at the moment. A tab that you lend waits until something does."));
  const ended = runs.filter(({ state }) => state === "done").slice(0, MAX_ENDED);
  at("ended").hidden = !ended.length;
  fill(at("ended-list"), h("ul", { class: "plain" }, ended.map((run) => h("li", null,
    h("a", { href: `/results.html#run=${run.id}` }, run.name || "unnamed"),
    ` ${format.count(run.rounds)} rounds, ${format.count(run.parameters)} parameters`,
    run.model_name ? [", for ", h("a", { href: `/models.html#model=${encodeURIComponent(run.model_name)}` }, run.model_name)] : null))));
}

/** Teams, and volunteers who want to be named. */
function lead({ teams, volunteers }) {
  const first = at("leaders").hidden;
  at("leaders").hidden = !teams.length && !volunteers.length;
  const number = (count) => h("span", { class: "number" }, format.count(count));
  fill(at("leaders-list"),
    teams.length ? table("Teams", ["Team", "Volunteers", "Results"],
      teams.map(({ name, members, accepted }) => [h("span", { translate: "no" }, name), number(members), number(accepted)])) : null,
    volunteers.length ? table("Volunteers", ["Name", "Team", "Results"],
      volunteers.map(({ volunteer, team, accepted }) => [code(volunteer), h("span", { translate: "no" }, team ?? ""), number(accepted)])) : null);
  // It was not there when the page came.
  if (first && location.hash === "#leaders") at("leaders").scrollIntoView();
}

async function introduce() {
  const { operator, contact, kernels } = await publicJson("/.well-known/potluck.json");
  at("who").textContent = `This relay is run by ${operator}${contact ? ` (${contact})` : ""}.`;
  at("kernels").textContent = `It can ask a tab for nothing else than ${new Intl.ListFormat("en").format(kernels)}.`;
}

let failures = 0;
for (;;) {
  await visible();
  try {
    if (!at("who").textContent) await introduce();
    show(await publicJson("/api/v1/projects"), await publicJson("/api/v1/runs"));
    lead(await publicJson("/api/v1/leaders"));
    at("problem").hidden = true;
    failures = 0;
    await sleep(LOOK_MS);
  } catch (error) {
    failures += 1;
    at("problem").hidden = false;
    at("problem").textContent = `The relay does not tell what runs (${error.message}). It is asked again.`;
    await sleep(Math.min(MAX_AWAY_MS, 1000 * 2 ** failures));
  }
}
