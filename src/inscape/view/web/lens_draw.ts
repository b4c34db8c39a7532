// Draws the part of the token x layer grid that the scroll position shows. Layers go up as they do in the model:
// the tokens read are at the bottom, the prediction is the top row. Both axes stay in view.
import { css, mix, readable, type Palette } from "./colour.ts";
import type { LensData, Measure } from "./lens_data.ts";
import { fit, measure, visible } from "./text.ts";

const NARROWEST = 54; // px; a narrower column cuts most words

export interface Layout {
  left: number; // width of the layer names
  foot: number; // height of the token axis
  cell: number; // width of a column
  line: number; // height of a row
  group: number; // positions drawn as one column; more than 1 only in the overview
  columns: number;
  words: boolean; // false: colours only
}

/** Column width from the words themselves, or from the room there is when all positions shall fit. */
export function layout(pen: CanvasRenderingContext2D, data: LensData, fonts: Fonts, room: number, words: boolean): Layout {
  pen.font = fonts.label;
  const left = Math.ceil(Math.max(...data.layers.map((name) => measure(pen, name)), 30)) + 14;
  const n = data.tokens.length;
  if (!words) {
    const inner = Math.max(40, room - left);
    const group = Math.max(1, Math.ceil((2 * n) / inner));
    const columns = Math.ceil(n / group);
    return { left, foot: 8, cell: Math.min(40, inner / columns), line: 16, group, columns, words };
  }
  pen.font = fonts.strong;
  const step = Math.max(1, Math.floor((n * data.layers.length) / 2000));
  const lengths: number[] = [];
  data.top.forEach((row) => row.forEach((k, at) => at % step === 0 && lengths.push(measure(pen, word(data, k[0])))));
  lengths.sort((a, b) => a - b);
  const typical = lengths[Math.floor(lengths.length * 0.92)] ?? 50;
  let cell = Math.min(112, Math.max(46, Math.ceil(typical) + 16));
  // A few positions spread over the room or close up to fit it; more scroll.
  const even = Math.floor((room - left) / n);
  if (even >= cell || even >= NARROWEST) cell = Math.min(132, even);
  return { left, foot: 34, cell, line: 25, group: 1, columns: n, words };
}

export interface Fonts {
  label: string;
  cell: string;
  strong: string;
}

export const word = (data: LensData, index: number | undefined): string =>
  index === undefined ? "" : visible(data.vocab[index] ?? "");

export interface Scene {
  data: LensData;
  measure: Measure;
  layout: Layout;
  palette: Palette;
  fonts: Fonts;
  width: number;
  height: number;
  scrollX: number;
  scrollY: number;
  at: { layer: number; column: number } | null;
}

export function draw(pen: CanvasRenderingContext2D, scene: Scene): void {
  const { layout: box, palette, width, height } = scene;
  pen.fillStyle = css(palette.paper);
  pen.fillRect(0, 0, width, height);
  pen.textBaseline = "middle";
  const inner = height - box.foot;
  pen.save();
  pen.beginPath();
  pen.rect(box.left, 0, width - box.left, inner);
  pen.clip();
  const first = Math.max(0, Math.floor(scene.scrollX / box.cell));
  const last = Math.min(box.columns - 1, Math.floor((scene.scrollX + width - box.left) / box.cell));
  eachRow(scene, inner, (layer, y) => {
    for (let column = first; column <= last; column++) cell(pen, scene, layer, column, y);
  });
  pen.restore();
  names(pen, scene, inner);
  if (box.words) tokens(pen, scene, first, last);
}

function eachRow(scene: Scene, inner: number, visit: (layer: number, y: number) => void): void {
  const n = scene.data.layers.length;
  for (let layer = 0; layer < n; layer++) {
    const y = (n - 1 - layer) * scene.layout.line - scene.scrollY;
    if (y > -scene.layout.line && y < inner) visit(layer, y);
  }
}

/** The mean over the positions of a column, which is one position unless the overview groups them. */
export function shade(scene: Pick<Scene, "layout" | "measure" | "data">, layer: number, column: number): number | null {
  const { group } = scene.layout;
  let [sum, count] = [0, 0];
  for (let s = column * group; s < Math.min((column + 1) * group, scene.data.tokens.length); s++) {
    const t = scene.measure.at(layer, s);
    if (t !== null) [sum, count] = [sum + t, count + 1];
  }
  return count ? sum / count : null;
}

function cell(pen: CanvasRenderingContext2D, scene: Scene, layer: number, column: number, y: number): void {
  const { layout: box, palette, data } = scene;
  const x = box.left + column * box.cell - scene.scrollX;
  const t = shade(scene, layer, column);
  const fill = t === null ? palette.paper : scene.measure.colour(t, palette);
  const gap = box.words ? 1.5 : box.cell > 5 ? 1 : 0;
  pen.fillStyle = css(fill);
  pen.beginPath();
  pen.roundRect(x, y, box.cell - gap, box.line - Math.min(1.5, gap || 0.5), box.words ? 3 : 0);
  pen.fill();
  const marked = scene.at?.layer === layer && scene.at.column === column;
  if (marked) {
    pen.strokeStyle = css(palette.ink);
    pen.lineWidth = 1.5;
    pen.stroke();
  }
  if (!box.words) return;
  const top = data.top[layer]?.[column]?.[0];
  const settled = data.final !== null && top === data.final[column];
  const text = readable(fill, palette.ink, palette.paper);
  // What is not yet the answer steps back, but never below a readable contrast.
  pen.fillStyle = css(settled || data.final === null ? text : mix(text, fill, 0.24));
  pen.font = settled ? scene.fonts.strong : scene.fonts.cell;
  pen.fillText(fit(pen, word(data, top), box.cell - 13), x + 6, y + box.line / 2);
}

function names(pen: CanvasRenderingContext2D, scene: Scene, inner: number): void {
  const { layout: box, palette, data } = scene;
  pen.font = scene.fonts.label;
  pen.textAlign = "right";
  const every = Math.ceil(13 / box.line);
  eachRow(scene, inner, (layer, y) => {
    const hot = scene.at?.layer === layer;
    if (!hot && (data.layers.length - 1 - layer) % every !== 0) return;
    pen.fillStyle = css(hot ? palette.ink : palette.quiet);
    if (y > -4 && y + box.line < inner + 4) pen.fillText(data.layers[layer] ?? "", box.left - 9, y + box.line / 2);
  });
  pen.textAlign = "left";
}

function tokens(pen: CanvasRenderingContext2D, scene: Scene, first: number, last: number): void {
  const { layout: box, palette, data, height } = scene;
  const y = height - box.foot;
  pen.fillStyle = css(palette.paper);
  pen.fillRect(0, y, scene.width, box.foot);
  pen.fillStyle = css(palette.rule);
  pen.fillRect(box.left, y + 4, scene.width - box.left, 1);
  pen.save();
  pen.beginPath();
  pen.rect(box.left, y, scene.width - box.left, box.foot);
  pen.clip();
  for (let column = first; column <= last; column++) {
    const hot = scene.at?.column === column;
    pen.font = hot ? scene.fonts.strong : scene.fonts.cell;
    pen.fillStyle = css(hot ? palette.ink : palette.quiet);
    const x = box.left + column * box.cell - scene.scrollX;
    pen.fillText(fit(pen, visible(data.tokens[column] ?? ""), box.cell - 13), x + 6, y + 20);
  }
  pen.restore();
  pen.font = scene.fonts.label;
  pen.fillStyle = css(palette.quiet);
  pen.textAlign = "right";
  pen.fillText("reads", box.left - 9, y + 20);
  pen.textAlign = "left";
}
