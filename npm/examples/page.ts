// A site's script: the widget, and what it tells the page.

import { loadPotluck } from "potluck-client/loader";

await loadPotluck({ relay: "https://relay.example.org" });
const widget = document.createElement("potluck-widget");
widget.presetMax = "balanced";
widget.addEventListener("potluck-result", ({ detail }) => {
  document.title = `${detail.accepted} results`;
  if (widget.state === "lending" && detail.accepted > 100) widget.stop();
});
document.addEventListener("potluck-state", ({ detail }) => console.log(detail.state));
document.body.append(widget);
