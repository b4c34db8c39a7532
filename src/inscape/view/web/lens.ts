// <inscape-lens>: what the model would say after each layer at each token. Pointer, arrows and scroll; only the
// cells in view are drawn, so hundreds of tokens cost what a dozen do.
import { css, onThemeChange, readPalette, type Palette } from "./colour.ts";
import { measures, type LensData, type Measure } from "./lens_data.ts";
import { draw, layout, shade, word, type Fonts, type Layout } from "./lens_draw.ts";
import { choice, inlineData, make, place, shadow } from "./parts.ts";
import { numeral, percent, visible } from "./text.ts";

const OVERVIEW_FROM = 160; // positions; above this the first look is the whole, not its first screen
const STYLE = `
.scroll { position: relative; overflow: auto; max-height: min(78vh, 760px); overscroll-behavior-x: contain; border-radius: 4px; }
canvas { position: sticky; left: 0; top: 0; display: block; cursor: crosshair; }
`;

export class InscapeLens extends HTMLElement {
  declare data?: LensData;
  private given!: LensData;
  private ways: Measure[] = [];
  private way = 0;
  private words = true;
  private at: { layer: number; column: number } | null = null;
  private box!: Layout;
  private palette!: Palette;
  private fonts!: Fonts;
  private pane!: HTMLElement;
  private sizer!: HTMLElement;
  private canvas!: HTMLCanvasElement;
  private tip!: HTMLElement;
  private voice!: HTMLElement;
  private key!: HTMLElement;
  private bold = make("span");
  private frame = 0;
  private stop: (() => void)[] = [];

  connectedCallback(): void {
    const data = inlineData<LensData>(this);
    if (!data || !data.tokens.length || !data.layers.length) return;
    this.given = data;
    this.ways = measures(data);
    this.words = data.tokens.length <= OVERVIEW_FROM;
    this.build();
    const sizes = new ResizeObserver(() => this.refresh());
    sizes.observe(this);
    this.stop = [onThemeChange(() => this.refresh()), () => sizes.disconnect(), () => cancelAnimationFrame(this.frame)];
    this.refresh();
  }

  disconnectedCallback(): void {
    for (const stop of this.stop) stop();
    this.stop = [];
  }

  private build(): void {
    const { tokens, layers, label, how, final } = this.given;
    const root = shadow(this, STYLE);
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.sizer = make("div", {}, this.canvas);
    const about = `${label} Grid of ${layers.length} layers by ${tokens.length} tokens. Arrow keys move, escape leaves.`;
    this.pane = make("div", { class: "scroll focus", tabindex: "0", role: "application", "aria-label": about }, this.sizer);
    this.tip = make("div", { class: "tip", role: "tooltip", hidden: "" });
    this.voice = make("div", { class: "silent", "aria-live": "polite" });
    this.key = make("span", { class: "key" });
    const bar = make("div", { class: "bar" }, choice("Colour by", this.ways.map((way) => way.name), 0, (index) => {
      this.way = index;
      this.refresh();
    }), this.key, make("span", { class: "room" }));
    if (tokens.length > 24)
      bar.append(choice("Zoom", ["Words", "Overview"], this.words ? 0 : 1, (index) => {
        this.words = index === 0;
        this.leave();
        this.refresh();
      }));
    const note = make("p", { class: "note" });
    if (final) this.bold.append(make("b", {}, "Bold"), " is already the model\u2019s final answer. ");
    note.append(this.bold, how);
    root.append(bar, this.pane, note, this.tip, this.voice);
    this.pane.addEventListener("scroll", () => (this.hide(), this.paint()), { passive: true });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.pane.addEventListener("keydown", (event) => this.press(event));
    this.pane.addEventListener("blur", () => this.leave());
  }

  private refresh(): void {
    const style = getComputedStyle(this);
    const mono = style.getPropertyValue("--mono");
    this.fonts = { label: `11px ${style.fontFamily}`, cell: `11.5px ${mono}`, strong: `700 11.5px ${mono}` };
    this.palette = readPalette(this.shadowRoot!);
    const pen = this.canvas.getContext("2d")!;
    const n = this.given.tokens.length;
    const room = this.pane.clientWidth || this.clientWidth;
    this.box = layout(pen, this.given, this.fonts, room, this.words);
    // Paper does not scroll: what would be cut off is printed as colours.
    if (this.words && matchMedia("print").matches && this.box.left + n * this.box.cell > room)
      this.box = layout(pen, this.given, this.fonts, room, false);
    const wide = this.box.left + this.box.columns * this.box.cell;
    this.sizer.style.width = `${Math.max(1, this.box.words ? wide : Math.min(wide, room))}px`;
    this.sizer.style.height = `${this.given.layers.length * this.box.line + this.box.foot}px`;
    this.bold.hidden = !this.box.words;
    const way = this.ways[this.way]!;
    const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => css(way.colour(t, this.palette)));
    const strip = make("i");
    strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    this.key.replaceChildren(way.low, strip, way.high);
    this.paint();
  }

  private paint(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      const width = Math.min(this.pane.clientWidth, Math.ceil(this.sizer.offsetWidth));
      const height = Math.min(this.pane.clientHeight, this.sizer.offsetHeight);
      if (!width || !height) return;
      const scale = devicePixelRatio || 1;
      const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
      if (this.canvas.width !== w || this.canvas.height !== h) {
        [this.canvas.width, this.canvas.height] = [w, h];
        [this.canvas.style.width, this.canvas.style.height] = [`${width}px`, `${height}px`];
      }
      const pen = this.canvas.getContext("2d")!;
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      const { scrollLeft, scrollTop } = this.pane;
      draw(pen, { data: this.given, measure: this.ways[this.way]!, layout: this.box, palette: this.palette, fonts: this.fonts,
        width, height, scrollX: scrollLeft, scrollY: scrollTop, at: this.at });
    });
  }

  private point(event: PointerEvent): void {
    const { left, foot, cell, line, columns } = this.box;
    const n = this.given.layers.length;
    const column = Math.floor((event.offsetX - left + this.pane.scrollLeft) / cell);
    const layer = n - 1 - Math.floor((event.offsetY + this.pane.scrollTop) / line);
    const inside = event.offsetX >= left && event.offsetY < this.canvas.offsetHeight - foot;
    if (!inside || column < 0 || column >= columns || layer < 0 || layer >= n) this.leave();
    else if (this.at?.layer !== layer || this.at.column !== column) this.show({ layer, column });
  }

  private press(event: KeyboardEvent): void {
    const [rows, columns] = [this.given.layers.length, this.box.columns];
    const now = this.at ?? { layer: rows - 1, column: columns - 1 };
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0],
      Home: [0, -columns], End: [0, columns], PageUp: [rows, 0], PageDown: [-rows, 0],
    };
    const move = moves[event.key];
    if (event.key === "Escape") return this.leave();
    if (!move) return;
    event.preventDefault();
    const step = this.at ? move : [0, 0]; // the first key only enters the grid
    const next = {
      layer: Math.min(rows - 1, Math.max(0, now.layer + step[0]!)),
      column: Math.min(columns - 1, Math.max(0, now.column + step[1]!)),
    };
    this.reveal(next);
    this.show(next);
    this.voice.textContent = this.spoken(next);
  }

  private reveal(at: { layer: number; column: number }): void {
    const { left, foot, cell, line } = this.box;
    const [x, y] = [at.column * cell, (this.given.layers.length - 1 - at.layer) * line];
    const [wide, high] = [this.pane.clientWidth - left - cell, this.pane.clientHeight - foot - line];
    const { scrollLeft, scrollTop } = this.pane;
    this.pane.scrollTo(Math.min(x, Math.max(scrollLeft, x - wide)), Math.min(y, Math.max(scrollTop, y - high)));
  }

  private show(at: { layer: number; column: number }): void {
    this.at = at;
    this.paint();
    this.tip.replaceChildren(...this.describe(at));
    const frame = this.canvas.getBoundingClientRect();
    const left = frame.left + this.box.left + at.column * this.box.cell - this.pane.scrollLeft;
    const top = frame.top + (this.given.layers.length - 1 - at.layer) * this.box.line - this.pane.scrollTop;
    place(this.tip, { left, top, right: left + this.box.cell, bottom: top + this.box.line });
  }

  private hide(): void {
    this.tip.hidden = true;
  }

  private leave(): void {
    if (!this.at) return;
    this.at = null;
    this.hide();
    this.paint();
  }

  private describe({ layer, column }: { layer: number; column: number }): Node[] {
    const { data, group } = { data: this.given, group: this.box.group };
    const first = column * group;
    if (group > 1) {
      const last = Math.min(first + group, data.tokens.length) - 1;
      const mean = shade({ layout: this.box, measure: this.ways[this.way]!, data }, layer, column);
      return [make("div", {}, `${data.layers[layer]}, positions ${first} to ${last}: mean shade ${numeral(mean)}`)];
    }
    const read = make("code", {}, visible(data.tokens[first] ?? ""));
    const where = make("div", { class: "where" }, `${data.layers[layer]} \u00b7 position ${first} \u00b7 reads `, read);
    const rows = (data.top[layer]?.[first] ?? []).map((index, k) => {
      const p = data.p[layer]?.[first]?.[k] ?? null;
      const bar = make("i");
      bar.style.width = `${100 * (p ?? 0)}%`;
      return make("tr", {}, make("td", { class: "token" }, word(data, index)), make("td", { class: "size" }, bar),
        make("td", { class: "amount" }, percent(p)));
    });
    const parts: Node[] = [where, make("table", {}, make("tbody", {}, ...rows))];
    const end = make("div", { class: "end" });
    const [rank, entropy] = [data.rank?.[layer]?.[first], data.entropy?.[layer]?.[first]];
    if (data.final && rank != null)
      end.append("final answer ", make("code", {}, word(data, data.final[first])), ` is at rank ${rank.toLocaleString("en-US")}`);
    if (entropy != null) end.append(end.hasChildNodes() ? " \u00b7 " : "", `entropy ${numeral(entropy)} nats`);
    if (end.hasChildNodes()) parts.push(end);
    return parts;
  }

  private spoken({ layer, column }: { layer: number; column: number }): string {
    const data = this.given;
    const s = column * this.box.group;
    const [top, p] = [word(data, data.top[layer]?.[s]?.[0]), data.p[layer]?.[s]?.[0]];
    const rank = data.rank?.[layer]?.[s];
    const tail = rank == null ? "" : `, final answer at rank ${rank}`;
    return `${data.layers[layer]}, token ${visible(data.tokens[s] ?? "")}: ${top}, ${percent(p)}${tail}`;
  }
}
