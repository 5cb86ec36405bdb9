// What goes on around the tab: hidden, frozen, on battery, on a metered network, another tab that lends already. Only
// observed here; what follows from it is the engine's decision.

const now = { hidden: document.hidden, onBattery: false, mobileData: false, anotherTab: false, frozen: false };
/** One tab of a browser lends at a time: more would share the same device. */
const LOCK = "potluck-lends";
/** Ends the claim of this tab. */
let release = null;
const listeners = new Set();

/** The conditions, as the engine takes them. */
export function conditions() {
  return { ...now };
}

/** Calls `listener` when one of them changes. */
export function onChange(listener) {
  listeners.add(listener);
}

function set(name, value) {
  if (now[name] === value) return;
  now[name] = value;
  listeners.forEach((listener) => listener(conditions()));
}

document.addEventListener("visibilitychange", () => set("hidden", document.hidden));
// What is posted here still reaches the Worker, which stands still with the page.
document.addEventListener("freeze", () => set("frozen", true));
document.addEventListener("resume", () => set("frozen", false));

/**
 * Claims this browser for this tab: at once, or when the tab that has it ends. With `steal` that one waits instead.
 * Resolves when it is known whether this tab waits.
 */
export async function claim({ steal = false } = {}) {
  // Not on pages that came without TLS from another machine.
  if (!navigator.locks) return;
  unclaim();
  const ended = new AbortController();
  let done;
  const held = new Promise((resolve) => { done = resolve; });
  release = () => {
    ended.abort();
    done();
  };
  const request = (options) => new Promise((known) => {
    const mine = navigator.locks.request(LOCK, options, (lock) => {
      if (ended.signal.aborted) return undefined;
      set("anotherTab", lock === null);
      known(lock !== null);
      return lock === null ? undefined : held;
    });
    mine.catch(() => {
      known(false);
      // Another tab took it over: this one is next in line.
      if (!ended.signal.aborted) wait();
    });
  });
  const wait = () => {
    set("anotherTab", true);
    request({ signal: ended.signal });
  };
  if (!(await request(steal ? { steal: true } : { ifAvailable: true })) && !steal && !ended.signal.aborted) wait();
}

/** This tab no longer lends. */
export function unclaim() {
  release?.();
  release = null;
  set("anotherTab", false);
}

/** Asks the browser about power and network. Called after consent: before it, nothing is asked. */
export async function observe() {
  const network = navigator.connection;
  if (network) {
    const look = () => set("mobileData", network.saveData === true || network.type === "cellular");
    look();
    network.addEventListener?.("change", look);
  }
  try {
    const battery = await navigator.getBattery?.();
    if (!battery) return;
    const look = () => set("onBattery", !battery.charging);
    look();
    battery.addEventListener("chargingchange", look);
  } catch {
    // Not every browser tells; then it counts as mains.
  }
}
