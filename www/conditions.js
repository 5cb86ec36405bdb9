// What goes on around the tab: hidden, on battery, on a metered network. Only observed here; what follows from it is the
// engine's decision.

const now = { hidden: document.hidden, onBattery: false, mobileData: false };
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
