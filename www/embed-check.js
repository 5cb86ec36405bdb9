// Whether a site's response headers let the widget work. Reads headers that somebody pasted; asks nobody.

/** Longest text that is read, in characters. */
const MAX_TEXT = 64 << 10;

/** What a frame around the widget has to allow. */
const SANDBOX = ["allow-scripts", "allow-same-origin", "allow-modals", "allow-popups"];

/** Headers of a text: name to values. Anything else in it is passed over. */
export function parse(text) {
  const headers = new Map();
  for (const line of text.slice(0, MAX_TEXT).split(/\r?\n/)) {
    const [, name, value] = /^\s*([\w-]+)\s*:\s*(.*?)\s*$/.exec(line) ?? [];
    if (name) headers.set(name.toLowerCase(), [...(headers.get(name.toLowerCase()) ?? []), value]);
  }
  return headers;
}

/** The policies of a header: each a map of directives. All of them have to allow what is done. */
const policies = (headers) =>
  (headers.get("content-security-policy") ?? []).flatMap((value) => value.split(",")).map((policy) =>
    new Map(policy.split(";").map((part) => part.trim().split(/\s+/)).filter(([name]) => name).reverse()
      .map(([name, ...sources]) => [name.toLowerCase(), sources])));

/** Whether a source of a policy covers an address. */
export function covers(source, address) {
  const { protocol, hostname, port, pathname } = new URL(address);
  const secure = (scheme) => scheme === protocol || (scheme === "http:" && protocol === "https:");
  if (source === "*") return true;
  if (/^[a-z][a-z0-9+.-]*:$/i.test(source)) return secure(source.toLowerCase());
  const [, scheme, host, wanted, path] = /^(?:([a-z][a-z0-9+.-]*:)\/\/)?([^/:'"]+)(?::(\d+|\*))?(\/.*)?$/i.exec(source) ?? [];
  if (!host || (scheme && !secure(scheme.toLowerCase()))) return false;
  const name = host.toLowerCase();
  if (name.startsWith("*.") ? !hostname.endsWith(name.slice(1)) : name !== hostname) return false;
  if (wanted !== "*" && (wanted ?? "") !== port && !(wanted && !port && { "http:": "80", "https:": "443" }[protocol] === wanted)) return false;
  return !path || path === "/" || (path.endsWith("/") ? pathname.startsWith(path) : pathname === path);
}

/** What one policy says of an address: `true`, `false`, or `null` where a nonce or hash decides. */
function allowed(policy, names, address) {
  const name = names.find((known) => policy.has(known));
  if (!name) return true;
  const sources = policy.get(name);
  const strict = sources.includes("'strict-dynamic'");
  if (!strict && sources.some((source) => covers(source, address))) return true;
  return strict || sources.some((source) => /^'(nonce|sha\d+)-/.test(source)) ? null : false;
}

/**
 * What is in the way of the widget, and what is not.
 * @param {string} text response headers
 * @param {{script: string, frame: string}} addresses of the loader and of the frame
 * @returns {{ok: ?boolean, what: string, todo?: string}[]}
 */
export function check(text, { script, frame }) {
  const headers = parse(text);
  if (!headers.size) return [{ ok: false, what: "There are no headers in this text.", todo: "Paste lines such as “content-security-policy: …”." }];
  const found = [];
  const relay = new URL(frame).origin;
  const all = policies(headers);
  const worst = (names, address) => {
    const answers = all.map((policy) => allowed(policy, names, address));
    return answers.includes(false) ? false : answers.includes(null) ? null : true;
  };
  const scripts = worst(["script-src-elem", "script-src", "default-src"], script);
  found.push({
    ok: scripts,
    what: scripts ? "The loader may run." : scripts === null ? "The loader runs if its element carries the nonce or hash that the policy names." : "The policy forbids the loader.",
    todo: scripts === false ? `Add ${relay} to script-src.` : scripts === null ? "Give the script element your page’s nonce." : undefined,
  });
  const frames = worst(["frame-src", "child-src", "default-src"], frame);
  found.push({
    ok: frames === true,
    what: frames === true ? "The frame may be shown." : "The policy forbids the frame.",
    todo: frames === true ? undefined : `Add ${relay} to frame-src.`,
  });
  for (const policy of all) {
    const missing = policy.has("sandbox") ? SANDBOX.filter((flag) => !policy.get("sandbox").includes(flag)) : [];
    if (missing.length) found.push({ ok: false, what: "The page is in a sandbox in which nothing computes.", todo: `Add ${missing.join(", ")} to sandbox.` });
  }
  const embedder = headers.get("cross-origin-embedder-policy")?.at(-1);
  if (embedder) found.push({ ok: true, what: `Cross-Origin-Embedder-Policy is ${embedder}: loader and frame send what it asks for.` });
  if (headers.has("content-security-policy-report-only")) {
    found.push({ ok: null, what: "A policy that only reports is in no way yet.", todo: "Add the same to it before it is enforced." });
  }
  if (!all.length) found.push({ ok: null, what: "No content security policy is in these headers.", todo: "If the page has one in a meta element, paste it as “content-security-policy: …”." });
  return found;
}
