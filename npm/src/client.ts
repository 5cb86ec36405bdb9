// A typed client of a relay's HTTP API. `api` is openapi-fetch with types made from the relay's own OpenAPI document, for
// everything that the API can; the methods beside it are what people need most.

import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./api.js";
import { PotluckError, originOf } from "./error.js";
import { type Matrix, decodeNpy, encodeNpy } from "./npy.js";

export { PotluckError, type Problem } from "./error.js";
export { type Matrix, type Numbers, decodeNpy, encodeNpy } from "./npy.js";
export type { components, paths } from "./api.js";

type Schemas = components["schemas"];
export type NewJob = Schemas["NewJob"];
export type Job = Schemas["JobInfo"];
export type JobDetail = Schemas["JobDetail"];
export type MatrixInfo = Schemas["MatrixInfo"];
export type Run = Schemas["RunInfo"];
export type Log = Schemas["LogInfo"];

/** How long one question waits for news, in ms. The relay answers after 30 s at the latest. */
export const WAIT_MS = 25_000;
/** How long a relay may be unreachable or busy while something is waited for, in ms: restarts take seconds. */
export const PATIENCE_MS = 300_000;
/** Pause before a question is asked again, in ms, where the relay names none. */
export const PAUSE_MS = 2_000;
/** Longest pause that a relay can ask for, in ms. */
export const MAX_PAUSE_MS = 30_000;
/** How long a receipt is waited for, in ms: entries are published about once a second. */
export const PUBLISH_MS = 15_000;
/** Largest result that is read into memory, in bytes; `api` streams what is larger. */
export const MAX_RESULT_BYTES = 1 << 30;

export interface Options {
  /** The relay's origin. */
  relay: string;
  /** The submitter's token, which goes to that relay and nowhere else. Pages of other people should not have it. */
  token?: string | undefined;
  /** Used in place of the global `fetch`. */
  fetch?: ((request: Request) => Promise<Response>) | undefined;
}

export interface Waiting {
  /** Ends the waiting, and nothing else: the work goes on. */
  signal?: AbortSignal | undefined;
}

export interface Watching extends Waiting {
  /** Called with each piece of news. */
  onProgress?: ((job: JobDetail) => void) | undefined;
}

/** What the relay takes as a matrix: numbers, or the bytes of a `.npy` file. */
export type Operand = Matrix | Blob | Uint8Array;

/** A relay. */
export function createPotluck(options: Options): Potluck {
  return new Potluck(options);
}

export class Potluck {
  /** The relay's origin. */
  readonly relay: string;
  /** All of the API. What the relay refuses is thrown as a `PotluckError`. */
  readonly api: Client<paths>;

  constructor({ relay, token, fetch }: Options) {
    this.relay = originOf(relay);
    // A relay sends nobody elsewhere, and whoever pretends to be one should not get the token passed on.
    this.api = createClient<paths>({ baseUrl: this.relay, redirect: "error", ...(fetch && { fetch }) });
    this.api.use({
      onRequest: ({ request }) => {
        if (token && new URL(request.url).origin === this.relay) request.headers.set("authorization", `Bearer ${token.trim()}`);
        return request;
      },
      onResponse: async ({ response }) => {
        if (!response.ok) throw await refused(response);
      },
      // What the caller ended ends as the caller said.
      onError: ({ error, request }) => (request.signal.aborted && error instanceof Error ? error : unreachable(error, this.relay)),
    });
  }

  /** Uploads a matrix, or a `.npy` file. The same one again costs the way and nothing else. */
  async upload(matrix: Operand): Promise<MatrixInfo> {
    const file = "shape" in matrix ? encodeNpy(matrix) : matrix;
    const { data } = await this.api.POST("/api/v1/matrices", {
      body: file,
      bodySerializer: (body) => body,
      headers: { "content-type": "application/octet-stream" },
    });
    return there(data);
  }

  /** Creates a job. With the same key again it is the same job, so that a request that got lost can be repeated. */
  async submit(job: NewJob, key: string = freshKey()): Promise<Job> {
    const { data } = await this.api.POST("/api/v1/jobs", { body: job, params: { header: { "Idempotency-Key": key } } });
    return there(data);
  }

  /** Waits for a job's end, across restarts of the relay. */
  async wait(id: string, { signal, onProgress }: Watching = {}): Promise<JobDetail> {
    for (let seen: number | undefined, ms = 0; ; ms = WAIT_MS) {
      const query = { wait_ms: ms, ...(seen !== undefined && { seen }) };
      const job = await patiently(PATIENCE_MS, signal, () =>
        this.api.GET("/api/v1/jobs/{id}", { params: { path: { id }, query }, signal: signal ?? null }));
      onProgress?.(job);
      if (job.state === "done") return job;
      if (job.state === "canceled") throw new PotluckError({ code: "canceled", message: "the job was canceled", hint: "submit it again" });
      seen = job.progress?.accepted;
    }
  }

  /** A job's result as the bytes of a `.npy` file. */
  async resultBytes(id: string, { signal }: Waiting = {}): Promise<Uint8Array<ArrayBuffer>> {
    const { response } = await this.api.GET("/api/v1/jobs/{id}/result", {
      params: { path: { id } },
      parseAs: "stream",
      signal: signal ?? null,
    });
    const bytes = Number(response.headers.get("content-length"));
    if (bytes > MAX_RESULT_BYTES) {
      await response.body?.cancel();
      throw new PotluckError({
        code: "too_large",
        message: `the result has ${bytes} bytes, and ${MAX_RESULT_BYTES} are read into memory at most`,
        hint: 'stream it: api.GET("/api/v1/jobs/{id}/result", { parseAs: "stream" })',
      });
    }
    return new Uint8Array(await response.arrayBuffer());
  }

  /** A job's result: f32, or i32 of an int8 product. */
  async result(id: string, waiting: Waiting = {}): Promise<Matrix<Float32Array | Int32Array>> {
    return decodeNpy(await this.resultBytes(id, waiting)) as Matrix<Float32Array | Int32Array>;
  }

  /** C = A·B, from the upload to the result. */
  async multiply(
    a: Operand,
    b: Operand,
    { signal, onProgress, ...job }: Partial<Omit<NewJob, "kind" | "a" | "b">> & Watching = {},
  ): Promise<Matrix<Float32Array | Int32Array> & { job: JobDetail }> {
    // One after the other: a relay takes few uploads at once.
    const [first, second] = [await this.upload(a), await this.upload(b)];
    const { id } = await this.submit({ ...job, kind: "matmul", a: first.id, b: second.id });
    const done = await this.wait(id, { signal, onProgress });
    return { ...(await this.result(id, { signal })), job: done };
  }

  /** A training run, whenever a round of it is done, until it ends. */
  async *follow(id: string, { signal }: Waiting = {}): AsyncGenerator<Run, void, undefined> {
    for (let seen: number | undefined; ;) {
      const query = seen === undefined ? {} : { wait_ms: WAIT_MS, seen_round: seen };
      const run = await patiently(PATIENCE_MS, signal, () =>
        this.api.GET("/api/v1/runs/{id}", { params: { path: { id }, query }, signal: signal ?? null }));
      const ended = run.state === "done" || run.state === "canceled";
      if (ended || run.round !== seen) yield run;
      if (ended) return;
      seen = run.round;
    }
  }

  /** The relay's public log: its key, size and last checkpoint. */
  async log(): Promise<Log> {
    const { data } = await this.api.GET("/api/v1/log");
    return there(data);
  }

  /** The receipt of an entry of the log, or of a job's or run's entry, as soon as it is published. See `potluck-client/trust`. */
  async receipt(of: { index: number } | { job: string }, { signal }: Waiting = {}): Promise<string> {
    const text = { parseAs: "text", signal: signal ?? null } as const;
    return patiently(PUBLISH_MS, signal, () => "index" in of
      ? this.api.GET("/api/v1/log/receipts/{index}", { params: { path: of }, ...text })
      : this.api.GET("/api/v1/log/jobs/{id}", { params: { path: { id: of.job } }, ...text }));
  }
}

/** A key that nobody else has. `randomUUID` is missing where a page is not secure. */
function freshKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What the relay says of what it refuses. */
async function refused(response: Response): Promise<PotluckError> {
  const { status } = response;
  const said: unknown = await response.json().catch(() => undefined);
  const retryAfterS = Number(response.headers.get("retry-after")) || undefined;
  if (typeof said === "object" && said && "code" in said && "message" in said) {
    const { code, message, hint, missing } = said as Schemas["ApiError"];
    return new PotluckError({ code, message, hint, missing, status, retryAfterS });
  }
  return new PotluckError({
    code: "no_answer",
    message: `the answer ${status} is none of a relay's`,
    hint: "look whether the address is a relay's, and what stands between it and here",
    status,
    retryAfterS,
  });
}

/** Why nothing came back. */
function unreachable(cause: unknown, relay: string): Error {
  return new PotluckError({
    code: "unreachable",
    message: `${relay} cannot be reached`,
    hint: "look whether it runs; browsers let no page of another origin read a relay's API: use a program, or a page of the relay's origin",
    cause,
  });
}

/** Answers have a body. One that was cut off counts as none. */
function there<Data>(data: Data | undefined): Data {
  if (data === undefined) throw new PotluckError({ code: "no_answer", message: "the answer is empty", hint: "try again" });
  return data;
}

/** Whether a question may be answered a moment later. `TypeError` is what a body ends with whose connection is lost. */
function isPassing(error: unknown): error is Error {
  return error instanceof TypeError || (error instanceof PotluckError && (error.isPassing || error.code === "not_in_log"));
}

/** Asks until there is an answer, or for so long. */
async function patiently<Data>(
  patienceMs: number,
  signal: AbortSignal | undefined,
  ask: () => Promise<{ data?: Data | undefined }>,
): Promise<Data> {
  for (const end = performance.now() + patienceMs; ;) {
    signal?.throwIfAborted();
    try {
      return there((await ask()).data);
    } catch (error) {
      const asked = error instanceof PotluckError && error.retryAfterS ? error.retryAfterS * 1000 : PAUSE_MS;
      const pause = Math.min(asked, MAX_PAUSE_MS);
      if (!isPassing(error) || performance.now() + pause > end) throw error;
      await sleep(pause, signal);
    }
  }
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}
