// What the types refuse. Each of these lines is an error to the compiler, and it is an error if one is not.

import { createPotluck } from "potluck-client";
import { loadPotluck } from "potluck-client/loader";

const potluck = createPotluck({ relay: "https://relay.example.org" });

// @ts-expect-error a job names two matrices
await potluck.submit({ kind: "matmul", a: "0".repeat(64) });
// @ts-expect-error there is no such route
await potluck.api.GET("/api/v1/job");
// @ts-expect-error the id stands in the path
await potluck.api.GET("/api/v1/jobs/{id}", { params: { path: {} } });
const job = await potluck.wait("0");
// @ts-expect-error jobs are running, done or canceled
if (job.state === "finished") throw job;
for await (const run of potluck.follow("0")) {
  // @ts-expect-error a number of rounds, and no text
  run.round.length;
  // @ts-expect-error runs are running, paused, done or canceled
  if (run.state === "finished") break;
}
// @ts-expect-error a version goes with its hash
await loadPotluck({ relay: "https://relay.example.org", pinned: { versioned: "/embed/0123456789abcdef/embed.js" } });
const widget = document.createElement("potluck-widget");
// @ts-expect-error there is no such preset
widget.presetMax = "all";
// @ts-expect-error the visitor decides that
widget.state = "lending";
