// What can go wrong, in one form: as the relay says it, or as this package does where nothing came of a request.

/** What a `PotluckError` is made of. */
export interface Problem {
  /** For programs: the relay's code, or one of this package's, such as `unreachable`. */
  code: string;
  /** What is wrong. */
  message: string;
  /** What to do about it. */
  hint?: string | undefined;
  /** HTTP status, if the relay answered. */
  status?: number | undefined;
  /** Of something that the relay's log does not justify: each step that is missing. */
  missing?: readonly string[] | undefined;
  /** After how many seconds to try again, if the relay says so. */
  retryAfterS?: number | undefined;
  /** The error behind this one. */
  cause?: unknown;
}

/** Why something failed, and what to do about it. */
export class PotluckError extends Error {
  override readonly name = "PotluckError";
  readonly code: string;
  readonly hint: string;
  readonly status: number | undefined;
  readonly missing: readonly string[];
  readonly retryAfterS: number | undefined;

  constructor({ code, message, hint = "", status, missing = [], retryAfterS, cause }: Problem) {
    super(hint ? `${message} (${hint})` : message, { cause });
    this.code = code;
    this.hint = hint;
    this.status = status;
    this.missing = missing;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same may work a moment later: nobody answered, or the relay is busy or restarts. */
  get isPassing(): boolean {
    return this.code === "unreachable" || this.status === 429 || this.status === 503;
  }
}

/** The origin that an address names. A relay has no path. */
export function originOf(relay: string): string {
  const address = URL.canParse(relay) ? new URL(relay) : undefined;
  if (!address || !/^https?:$/.test(address.protocol) || address.pathname !== "/" || address.username) {
    throw new PotluckError({
      code: "bad_relay",
      message: `${JSON.stringify(relay)} is no relay's address`,
      hint: "write it as https://relay.example.org",
    });
  }
  return address.origin;
}
