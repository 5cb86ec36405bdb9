// Types of `<potluck-widget>`, which the relay's own `embed.js` defines.

/** What a visitor may be asked for at most. */
export type Preset = "quiet" | "balanced" | "full";
export type Theme = "auto" | "light" | "dark";
/** What the widget does. */
export type WidgetState = "idle" | "asking" | "lending" | "paused" | "ended" | "refused";

/** Attributes as properties; an empty text is an attribute that is not there. Nothing starts the work but a visitor's click. */
export interface PotluckWidgetElement extends HTMLElement {
  /** What the page speaks of. */
  project: string;
  /** Attribute `preset-max`: the most that visitors may choose. It can only lower what the operator allows. */
  presetMax: Preset | "";
  theme: Theme | "";
  /** Another relay's address than the script's. */
  relay: string;
  readonly state: WidgetState;
  /** Results of this visit that the relay accepted. */
  readonly accepted: number;
  /** Ends the work, as the visitor's own Stop does. */
  stop(): void;
}

/** Events of the element. They bubble. */
export interface PotluckWidgetEventMap {
  "potluck-state": CustomEvent<{ state: WidgetState }>;
  "potluck-result": CustomEvent<{ accepted: number }>;
}

declare global {
  interface HTMLElementTagNameMap {
    "potluck-widget": PotluckWidgetElement;
  }
  // Of elements, documents and windows.
  interface GlobalEventHandlersEventMap extends PotluckWidgetEventMap {}
}
