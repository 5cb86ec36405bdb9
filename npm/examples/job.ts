// A researcher's script: a product computed by volunteers, and the relay's word for it checked on this machine.
// Node: POTLUCK_RELAY=http://127.0.0.1:8787 POTLUCK_TOKEN=… node job.js

import { PotluckError, createPotluck } from "potluck-client";
import { verifyReceipt } from "potluck-client/trust";

declare const process: { env: Record<string, string | undefined>; exitCode: number };
const { POTLUCK_RELAY = "http://127.0.0.1:8787", POTLUCK_TOKEN } = process.env;

const potluck = createPotluck({ relay: POTLUCK_RELAY, token: POTLUCK_TOKEN });
try {
  const a = { shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) };
  const b = { shape: [3, 2], data: Float32Array.of(1, 0, 0, 1, 2, 2) };
  const { shape, data, job } = await potluck.multiply(a, b, { name: "a small product" });
  // Whoever wrote the log's key down earlier need not ask the relay for it.
  const { key } = await potluck.log();
  const receipt = await potluck.receipt({ job: job.id });
  const { kind, index, origin } = await verifyReceipt(receipt, { log: key });
  console.log(JSON.stringify({ shape, data: [...data], state: job.state, kind, index, origin, receipt }));
} catch (error) {
  if (!(error instanceof PotluckError)) throw error;
  console.log(JSON.stringify({ code: error.code, status: error.status, hint: error.hint }));
  process.exitCode = 1;
}
