// <inscape-tokens>: running text, each token coloured by a value. The tokens are text in the page: they wrap, can be
// selected and copied.
import { css, mix, onThemeChange, readable, readPalette, type Palette, type Rgb } from "./colour.ts";
import { choice, inlineData, make, place, shadow } from "./parts.ts";
import { numeral, visible } from "./text.ts";

export interface StripData {
  tokens: string[];
  values: { name: string; values: (number | null)[]; signed: boolean; unit: string }[];
  label: string;
}

const FIRST = 2500; // tokens; more nodes than this make a page slow, so the rest waits for a click
const STYLE = `
.text { font: 13px/1.95 var(--mono); overflow-wrap: anywhere; }
.text span { display: inline-block; max-width: 100%; line-height: 1.45; padding: 1px 1.5px; border-radius: 3px; margin-right: 1.5px; cursor: default; white-space: pre-wrap; print-color-adjust: exact; }
.text span:hover, .text span:focus { outline: 1.5px solid var(--ink); outline-offset: 0; }
.more { font: inherit; font-size: 12px; color: var(--accent); background: none; border: 0; padding: 6px 0; cursor: pointer; }
`;

export class InscapeTokens extends HTMLElement {
  declare data?: StripData;
  private given!: StripData;
  private way = 0;
  private shown = FIRST;
  private text!: HTMLElement;
  private tip!: HTMLElement;
  private key!: HTMLElement;
  private stop: (() => void) | null = null;

  connectedCallback(): void {
    const data = inlineData<StripData>(this);
    if (!data || !data.values.length) return;
    this.given = data;
    const root = shadow(this, STYLE);
    this.key = make("span", { class: "key" });
    this.text = make("div", { class: "text", role: "group", "aria-label": data.label });
    this.tip = make("div", { class: "tip", role: "tooltip", hidden: "" });
    const pick = (index: number) => ((this.way = index), this.colour());
    const names = data.values.map((series) => series.name);
    const title = names.length > 1 ? choice("Colour by", names, 0, pick) : make("span", {}, names[0] ?? "");
    root.append(make("div", { class: "bar" }, title, this.key), this.text, this.tip);
    this.fill();
    for (const type of ["pointerover", "focusin"]) this.text.addEventListener(type, (event) => this.show(event.target));
    for (const type of ["pointerleave", "focusout"]) this.text.addEventListener(type, () => (this.tip.hidden = true));
    this.text.addEventListener("keydown", (event) => this.press(event));
    this.stop = onThemeChange(() => this.colour());
  }

  disconnectedCallback(): void {
    this.stop?.();
  }

  private fill(): void {
    const { tokens } = this.given;
    const count = Math.min(tokens.length, this.shown);
    const spans = tokens.slice(0, count).flatMap((token, index) => {
      const span = make("span", { "data-at": String(index), tabindex: index ? "-1" : "0" }, visible(token));
      return token.includes("\n") ? [span, make("br")] : [span];
    });
    this.text.replaceChildren(...spans);
    if (count < tokens.length) {
      const more = make("button", { type: "button", class: "more" }, `show all ${tokens.length.toLocaleString("en-US")} tokens`);
      more.addEventListener("click", () => ((this.shown = tokens.length), this.fill()));
      this.text.append(make("br"), more);
    }
    this.colour();
  }

  private colour(): void {
    const palette = readPalette(this.shadowRoot!);
    const { values, signed, unit } = this.given.values[this.way]!;
    const known = values.filter((value): value is number => value !== null);
    const [low, high] = known.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [0, 0]);
    const most = Math.max(Math.abs(low), high) || 1;
    // The scale begins at zero unless all values are far from it.
    const least = known.reduce((a, b) => Math.min(a, b), most);
    const from = signed ? -most : least > 0.5 * most ? least : 0;
    const span = high - from || 1;
    const shadeOf = (value: number): Rgb =>
      signed ? twoSided(palette, value / most) : mix(palette.panel, palette.accent, (value - from) / span);
    for (const node of this.text.querySelectorAll<HTMLElement>("span")) {
      const value = values[Number(node.dataset.at)] ?? null;
      const fill = value === null ? palette.paper : shadeOf(value);
      node.style.background = css(fill);
      node.style.color = css(readable(fill, palette.ink, palette.paper));
    }
    const strip = make("i");
    const [start, end] = signed ? [-most, most] : [from, high];
    const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => css(shadeOf(start + t * (end - start))));
    strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    this.key.replaceChildren(numeral(start), strip, `${numeral(end)}${unit ? ` ${unit}` : ""}`);
  }

  private show(target: EventTarget | null): void {
    const at = target instanceof HTMLElement ? target.dataset.at : undefined;
    if (at === undefined) return void (this.tip.hidden = true);
    const index = Number(at);
    const rows = this.given.values.map((series) =>
      make("tr", {}, make("td", {}, series.name),
        make("td", { class: "amount" }, `${numeral(series.values[index])}${series.unit ? ` ${series.unit}` : ""}`)));
    const token = make("code", {}, visible(this.given.tokens[index] ?? ""));
    this.tip.replaceChildren(make("div", { class: "where" }, `position ${index} \u00b7 `, token),
      make("table", {}, make("tbody", {}, ...rows)));
    place(this.tip, (target as HTMLElement).getBoundingClientRect());
  }

  private press(event: KeyboardEvent): void {
    const node = event.target as HTMLElement;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.tip.hidden = true;
    if (!step || node.dataset.at === undefined) return;
    event.preventDefault();
    const next = this.text.querySelector<HTMLElement>(`span[data-at="${Number(node.dataset.at) + step}"]`);
    if (!next) return;
    node.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

const twoSided = (palette: Palette, t: number): Rgb => mix(palette.panel, t < 0 ? palette.warm : palette.accent, Math.abs(t));
