// A relay's public log, checked on this machine: receipts and whole logs. The checks are those of the relay's own pages and of
// `potluck receipt verify`, compiled to wasm; nothing is asked of the network but this package's wasm file.

// The module's classes can be disposed of, where the language knows that.
/// <reference lib="esnext.disposable" preserve="true" />

import init, { Reader, Receipts } from "./trust/potluck_trust.js";
import { PotluckError } from "./error.js";

export { PotluckError } from "./error.js";

/** Whose signatures count. */
export interface Trusted {
  /** The log's key, as the relay's `/log/key` has it: write it down once; from then on the relay need not be believed. */
  log: string;
  /** Keys of witnesses. */
  witnesses?: string[];
  /** Witnesses that have to have signed; 0 if missing. */
  threshold?: number;
}

/** What a receipt proves. */
export interface Proved {
  /** The log's name. */
  origin: string;
  /** Index of the entry. */
  index: number;
  /** Entries of the tree that it is in. */
  size: number;
  /** Witnesses of those that are trusted which signed that tree, and when, in seconds since 1970. */
  cosigners: { name: string; timestampS: number }[];
  /** Kind of the entry. */
  kind: string;
  /** When it was logged, in ms since 1970. */
  atMs: number;
  /** All its fields. */
  entry: Record<string, unknown>;
}

/** Reads a file of a log by its path, such as `tile/entries/000`; nothing if there is none. */
export type ReadFile = (path: string) => Promise<Uint8Array | undefined>;

type Wasm = Exclude<Parameters<typeof init>[0], undefined>;
let loaded: Promise<unknown> | undefined;

/**
 * Loads the wasm module, once. Without an argument it is the file beside this one; a bundler that does not bring it along is
 * helped by the address or the bytes of `potluck-client/trust/potluck_trust_bg.wasm`.
 */
export function loadTrust(wasm?: URL | string | BufferSource | WebAssembly.Module): Promise<unknown> {
  loaded ??= (wasm === undefined ? beside() : Promise.resolve(wasm))
    .then((module_or_path) => init({ module_or_path: module_or_path as Wasm }))
    .catch((cause: unknown) => {
      // It can be tried again.
      loaded = undefined;
      throw new PotluckError({
        code: "no_wasm",
        message: "the wasm module cannot be loaded",
        hint: "call loadTrust() with its address or bytes first; a page's policy needs 'wasm-unsafe-eval' in script-src",
        cause,
      });
    });
  return loaded;
}

/** Node reads files, and does not fetch them. */
async function beside(): Promise<URL | Uint8Array> {
  const address = new URL("./trust/potluck_trust_bg.wasm", import.meta.url);
  if (address.protocol !== "file:") return address;
  // By a name that bundlers for browsers do not look up.
  const files = "node:fs/promises";
  return (await import(/* webpackIgnore: true */ /* @vite-ignore */ files)).readFile(address);
}

/** Checks a receipt: what it proves. Throws a `PotluckError` that says what does not hold. */
export async function verifyReceipt(receipt: string | Uint8Array, trusted: Trusted): Promise<Proved> {
  await loadTrust();
  return checked("not_proved", "get it again; if it stays so, the relay or the way here is not to be trusted", () => {
    const receipts = new Receipts(JSON.stringify(trusted));
    try {
      return JSON.parse(receipts.verify(typeof receipt === "string" ? new TextEncoder().encode(receipt) : receipt)) as Proved;
    } finally {
      receipts.free();
    }
  });
}

/**
 * Reads a whole log and derives what follows from it. `read` gives its files: of a relay's `/log/`, or of a copy. The reader that
 * comes back answers `overview`, `proposal` and `model`; `free()` it when it is no longer needed.
 */
export async function readLog(key: string, read: ReadFile): Promise<Reader> {
  await loadTrust();
  const fetched = async (...paths: string[]): Promise<[Uint8Array, string]> => {
    for (const path of paths) {
      const bytes = await read(path);
      if (bytes) return [bytes, path];
    }
    const message = `the log has no ${paths[0]}`;
    throw new PotluckError({ code: "no_file", message, hint: "look whether that is a log's address or folder" });
  };
  const hint = "these are not the files of the log with that key, or they were changed";
  const reader = checked("wrong_log", hint, () => new Reader(key));
  try {
    const [note] = await fetched("checkpoint");
    checked("wrong_log", hint, () => reader.begin(new TextDecoder().decode(note)));
    for (let wanted: { path: string; full: string } | null; (wanted = JSON.parse(reader.wanted()));) {
      // A file that was not full is replaced by the full one.
      const [bytes, path] = await fetched(wanted.path, wanted.full);
      checked("wrong_log", hint, () => reader.take(bytes, path !== wanted?.path));
    }
    return reader;
  } catch (error) {
    reader.free();
    throw error;
  }
}

/** What the module throws, as this package's error. */
function checked<Answer>(code: string, hint: string, check: () => Answer): Answer {
  try {
    return check();
  } catch (cause) {
    throw new PotluckError({ code, message: cause instanceof Error ? cause.message : String(cause), hint, cause });
  }
}
