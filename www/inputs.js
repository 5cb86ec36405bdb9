// Inputs that outlive the tab, so that who comes back does not fetch them again. The browser's own cache holds them: it
// writes each whole or not at all, and makes room when the device needs it. Each is named by the hash of its bytes, which
// the engine checks: nobody can slip it another one.

const NAME = "potluck.inputs";
const address = (hash) => `/inputs/${hash}`;

/** Writes an input down; without bytes, removes it. Where storage is full or off, nothing is kept. */
export async function store(hash, bytes) {
  try {
    const cache = await caches.open(NAME);
    if (bytes) await cache.put(address(hash), new Response(bytes));
    else await cache.delete(address(hash));
  } catch {
    // It is fetched again.
  }
}

/** Calls `take` with the bytes of each, the oldest first. */
export async function load(take) {
  try {
    const cache = await caches.open(NAME);
    for (const request of await cache.keys()) {
      const response = await cache.match(request);
      if (response) take(new Uint8Array(await response.arrayBuffer()));
    }
  } catch {
    // They are fetched again.
  }
}

/** Removes all of them, and the models that the model page keeps. */
export async function forget() {
  // Outside of secure contexts there is no cache.
  for (const name of [NAME, "potluck.models"]) await globalThis.caches?.delete(name).catch(() => {});
}
