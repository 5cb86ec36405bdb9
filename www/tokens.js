// A token that a person types: kept for as long as the tab is open, sent to this relay and to nobody else.

import { Refusal, fetchText } from "./trust.js";

const at = (id) => document.getElementById(id);

export class Token {
  #name;
  #value;
  #onChange;

  /** `name` names it in the tab's storage; `onChange` is called when it was typed, refused or forgotten. */
  constructor(name, onChange) {
    this.#name = name;
    this.#onChange = onChange;
    try {
      this.#value = sessionStorage.getItem(name) ?? "";
    } catch {
      // Storage may be off: then it lasts until the page is left.
      this.#value = "";
    }
  }

  get known() {
    return this.#value !== "";
  }

  /** Connects a form: a field, and a line that says what is wrong. */
  listen(form, field, note) {
    this.note = note;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const typed = at(field).value.trim();
      at(field).value = "";
      // What a header cannot carry is no token.
      const wrong = !/^[\x21-\x7e]{1,200}$/.test(typed);
      at(note).textContent = wrong ? "That is no token: it is a line of letters and digits." : "";
      if (!wrong) this.#set(typed);
    });
  }

  forget(why = "") {
    if (this.note) at(this.note).textContent = why;
    if (this.known) this.#set("");
  }

  #set(value) {
    this.#value = value;
    try {
      if (value) sessionStorage.setItem(this.#name, value);
      else sessionStorage.removeItem(this.#name);
    } catch {
      // As above.
    }
    this.#onChange();
  }

  /** What the relay says to who has the token. A token that it refuses is forgotten. */
  async json(address) {
    try {
      return JSON.parse(await fetchText(address, this.#options()));
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) this.forget("The relay does not know this token.");
      throw error;
    }
  }

  /** Tells the relay something, with the token. */
  async post(address, body) {
    const { headers, ...options } = this.#options();
    return JSON.parse(await fetchText(address, {
      ...options, method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body),
    }));
  }

  /** The same as `json`, as a file. */
  async file(address) {
    const answer = await fetch(address, this.#options());
    if (!answer.ok) throw new Refusal(answer.status, `the relay answers with status ${answer.status}`);
    return answer.blob();
  }

  #options() {
    return { headers: { authorization: `Bearer ${this.#value}` }, credentials: "omit" };
  }
}

/** What everybody may ask. */
export const publicJson = async (address) => JSON.parse(await fetchText(address));

/** Nobody looks at a hidden page. */
export function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
