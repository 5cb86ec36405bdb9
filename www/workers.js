// Workers: the one place that names what they run. Browsers with Trusted Types take addresses of scripts from a policy
// alone, and the pages' headers allow this one; it knows these scripts and no others.

const SCRIPTS = ["worker.js", "model-worker.js"];

const policy = globalThis.trustedTypes?.createPolicy("potluck-worker", { createScriptURL: address });

function address(name) {
  if (!SCRIPTS.includes(name)) throw new TypeError(`no Worker runs ${name}`);
  return new URL(name, import.meta.url).href;
}

/** Starts a Worker with one of the scripts of this site. */
export const startWorker = (script, name) => new Worker(policy ? policy.createScriptURL(script) : address(script), { type: "module", name });
