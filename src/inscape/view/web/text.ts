// Tokens and numbers as a reader sees them.

/** A token on one line: spaces at its ends, newlines and other invisible characters get a visible stand-in. */
export function visible(token: string): string {
  if (token === "") return "\u2205";
  return token
    .replace(/^ +| +$/g, (spaces) => "\u00b7".repeat(spaces.length))
    .replace(/\r?\n/g, "\u21b5")
    .replace(/\t/g, "\u21e5")
    .replace(/[\u0000-\u001f]/g, (char) => String.fromCharCode(0x2400 + char.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, codePoint)
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

function codePoint(char: string): string {
  return `<U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
}

/** Three significant digits, thousands separated; a gap is a dash. */
export function numeral(value: number | null | undefined): string {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace("e+", "e").replace("-", "\u2212");
  return value.toLocaleString("en-US", { maximumSignificantDigits: 3 }).replace("-", "\u2212");
}

export function percent(p: number | null | undefined): string {
  if (p === null || p === undefined) return "\u2013";
  if (p < 0.0005) return "<0.1 %";
  return `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
}

const widths = new Map<string, number>();

/** Width of a text in the canvas's present font, remembered: measuring is most of the cost of a redraw. */
export function measure(pen: CanvasRenderingContext2D, text: string): number {
  const key = `${pen.font}\n${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    if (widths.size > 20000) widths.clear();
    width = pen.measureText(text).width;
    widths.set(key, width);
  }
  return width;
}

/** The longest beginning that fits, with an ellipsis where something was cut. */
export function fit(pen: CanvasRenderingContext2D, text: string, room: number): string {
  if (measure(pen, text) <= room) return text;
  const chars = [...text];
  let [low, high] = [0, chars.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (measure(pen, chars.slice(0, middle).join("") + "\u2026") <= room) low = middle;
    else high = middle - 1;
  }
  return low ? chars.slice(0, low).join("") + "\u2026" : "";
}
