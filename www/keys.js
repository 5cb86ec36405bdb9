// A person's key: made in this browser so that it cannot be taken out of it, or read from a file. What signs is
// WebCrypto's Ed25519; the secret half never becomes text here.

import { loadGovernance } from "./trust.js";

const DATABASE = "potluck.keys";
const STORE = "keys";
/** There is one: a person has one key. */
const MINE = "mine";
/** What stands before the 32 bytes of a seed in PKCS #8. Source: RFC 8410, section 7. */
const PKCS8 = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** The key at hand: `{key, publicKey, kept}`. */
let mine = null;

/** Runs one request on the store. */
async function stored(mode, request) {
  const database = await new Promise((resolve, reject) => {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const asked = request(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

function subtle() {
  if (!globalThis.crypto?.subtle) throw new Error("keys need a secure page: open this site over https, or on this device");
  return crypto.subtle;
}

/** The key, if there is one. */
export async function current() {
  if (mine) return mine;
  try {
    mine = (await stored("readonly", (store) => store.get(MINE))) ?? null;
  } catch {
    // Storage may be off.
  }
  return mine;
}

/** What is not kept stands before what is, until the page is left. */
async function take(found, keep) {
  mine = { ...found, kept: keep };
  if (!keep) return;
  await stored("readwrite", (store) => store.put(mine, MINE)).catch(() => {
    mine = null;
    throw new Error("this browser keeps nothing, so a key would be lost with this page: use a file instead");
  });
}

/** Whether a key is kept, which another one would replace. */
export async function isKept() {
  return Boolean(await stored("readonly", (store) => store.get(MINE)).catch(() => null));
}

/** Makes a key that stays in this browser. */
export async function create() {
  const { privateKey, publicKey } = await subtle().generateKey("Ed25519", false, ["sign", "verify"]).catch((error) => {
    throw new Error(`this browser makes no Ed25519 keys: ${error.message}; use a file instead`);
  });
  await take({ key: privateKey, publicKey: hex(await subtle().exportKey("raw", publicKey)) }, true);
}

/** Reads a seed: 64 hexadecimal digits. With `keep`, it stays in this browser; else it is gone with the page. */
export async function fromFile(text, keep) {
  const seed = text.trim().toLowerCase();
  if (!/^[0-9a-f]{64}$/.test(seed)) throw new Error("that is no key: the file has to hold 64 hexadecimal digits");
  const { publicKey } = await loadGovernance();
  const bytes = new Uint8Array([...PKCS8, ...seed.match(/../g).map((pair) => parseInt(pair, 16))]);
  const key = await subtle().importKey("pkcs8", bytes, "Ed25519", false, ["sign"]).finally(() => bytes.fill(0));
  await take({ key, publicKey: publicKey(seed) }, keep);
}

/** Signs a text: the signature in hexadecimal digits. */
export async function sign(text) {
  const { key } = await current();
  return hex(await subtle().sign("Ed25519", key, new TextEncoder().encode(text)));
}

/** Removes the key. One that was made here is gone for good. */
export async function forget() {
  mine = null;
  await stored("readwrite", (store) => store.delete(MINE)).catch(() => {});
}
