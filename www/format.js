// Numbers and sentences for people.

/** Of the page: `language.js` sets it before anything else runs. */
const locale = document.documentElement.lang || "en";
const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat(locale, { maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);
/** 2.3, 3 -> "2.300" */
export const decimal = (value, digits) => value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const list = (names) => new Intl.ListFormat(locale).format(names);

export const percent = (share) => `${whole.format(share * 100)} %`;

/** 1234567 -> "1.23 MB" */
export function bytes(value) {
  return scaled(value, ["B", "kB", "MB", "GB", "TB"]);
}

/** Bytes per second -> "1.23 MB/s" */
export const rate = (value) => `${bytes(value)}/s`;

/** Billions of operations -> "1.5 trillion operations" */
export function operations(gflop) {
  if (gflop <= 0) return "none yet";
  if (gflop < 1) return `${short.format(gflop * 1e3)} million`;
  if (gflop < 1e3) return `${short.format(gflop)} billion`;
  if (gflop < 1e6) return `${short.format(gflop / 1e3)} trillion`;
  return `${short.format(gflop / 1e6)} quadrillion`;
}

export function speed(gflops) {
  return gflops > 0 ? `${short.format(gflops)} GFLOP/s` : "being measured";
}

/** Seconds -> "2 min 5 s" */
export function time(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

const day = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });

/** Milliseconds since 1970 -> "Mar 3, 2026, 14:05" */
export const date = (ms) => day.format(new Date(ms));

/** Power that a busy device draws beyond an idle one, in watts: a rough guess, which the page says. */
const WATTS = { webgpu: 40, wasm: 12 };

/** Energy in watt-hours. An estimate: browsers do not tell. */
export const wattHours = (busySeconds, backend) => (busySeconds * (WATTS[backend] ?? WATTS.wasm)) / 3600;

export const energyOf = (wattHours) => (wattHours < 0.1 ? `under ${short.format(0.1)} Wh` : `about ${short.format(wattHours)} Wh`);

export const energy = (busySeconds, backend) => energyOf(wattHours(busySeconds, backend));

export function energyBasis(backend) {
  return `An estimate, not a measurement: ${WATTS[backend] ?? WATTS.wasm} W while ${
    backend === "webgpu" ? "the GPU" : "one processor core"
  } is busy.`;
}

export const BACKENDS = { webgpu: "WebGPU", wasm: "WebAssembly SIMD" };

export const PATHS = { direct: "Direct", turn: "Via TURN", connecting: "Connecting" };

export const STATES = {
  starting: "Starting",
  running: "Computing",
  waiting: "Waiting",
  paused: "Paused",
  finishing: "Finishing",
};

function scaled(value, units) {
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${short.format(value)} ${units[unit]}`;
}
