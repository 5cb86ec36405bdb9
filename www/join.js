// Who followed an invitation, `/join/ID`, sees that project first. Nothing else is different: what a tab computes is what
// the relay leases it.

import { KINDS, STATES, outcome, people, progress, what } from "./project.js";
import { fetchText } from "./trust.js";

const at = (id) => document.getElementById(id);

function show(project) {
  const open = project.state === "running";
  at("invitation-kind").textContent = `${KINDS[project.kind] ?? project.kind}, ${STATES[project.state] ?? project.state}`;
  // Somebody chose it: it is no text of the page.
  at("invitation-title").translate = !project.name;
  at("invitation-title").textContent = project.name || "A project without a name";
  const words = [what(project), project.why, project.reason && `It is ${STATES[project.state]}: ${project.reason}`, outcome(project)];
  const told = words.filter(Boolean).map((text) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    return paragraph;
  });
  at("invitation-words").replaceChildren(...told);
  at("invitation-progress").max = Math.max(1, project.total);
  at("invitation-progress").value = project.done;
  at("invitation-far").textContent = open ? `${progress(project)}. ${people(project)}` : `${progress(project)}.`;
  at("invitation-note").textContent = open
    ? "You cannot pick a project: the relay gives each tab a part of what runs, so this one gets its share and others do too."
    : "Nothing of it is left to compute. A tab that you lend works on what else this relay holds.";
}

async function invite(id) {
  at("invitation").hidden = false;
  try {
    show(JSON.parse(await fetchText(`/api/v1/projects/${id}`)));
    document.body.dataset.invitation = "shown";
  } catch (error) {
    at("invitation-title").textContent = "This project could not be found";
    at("invitation-words").textContent = `The relay says: ${error.message}.`;
    at("invitation-progress").hidden = true;
    at("invitation-note").textContent = "You can lend the tab all the same: it works on what this relay holds.";
    document.body.dataset.invitation = "failed";
  }
}

const [, invited] = location.pathname.match(/^\/join\/([0-9a-f]{32})$/) ?? [];
if (invited) invite(invited);
