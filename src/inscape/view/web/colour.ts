// Colours come from CSS, so that an element follows its page: each name is resolved by the browser (light-dark()
// included) and mixed here for the canvas.

export type Rgb = readonly [number, number, number];

export interface Palette {
  paper: Rgb;
  panel: Rgb;
  rule: Rgb;
  faint: Rgb;
  quiet: Rgb;
  ink: Rgb;
  accent: Rgb;
  warm: Rgb;
}

const NAMES = ["paper", "panel", "rule", "faint", "quiet", "ink", "accent", "warm"] as const;

/** The colours as they are at this element now. A custom property is not resolved by itself, a `color` is. */
export function readPalette(root: ShadowRoot): Palette {
  const probe = document.createElement("span");
  probe.hidden = true;
  root.append(probe);
  const read = (name: string): Rgb => {
    probe.style.color = `var(--${name})`;
    const parts = getComputedStyle(probe).color.match(/[\d.]+/g) ?? ["0", "0", "0"];
    return [Number(parts[0]), Number(parts[1]), Number(parts[2])];
  };
  const palette = Object.fromEntries(NAMES.map((name) => [name, read(name)])) as unknown as Palette;
  probe.remove();
  return palette;
}

export const css = (c: Rgb): string => `rgb(${Math.round(c[0])} ${Math.round(c[1])} ${Math.round(c[2])})`;

/** From `a` at 0 to `b` at 1. */
export function mix(a: Rgb, b: Rgb, t: number): Rgb {
  const s = Math.min(1, Math.max(0, t));
  return [a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s, a[2] + (b[2] - a[2]) * s];
}

/** Relative luminance, WCAG 2. */
function luminance(c: Rgb): number {
  const channel = (v: number) => (v <= 10.31475 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
}

function contrast(a: Rgb, b: Rgb): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

/** Whichever of the two reads better on this background. */
export const readable = (on: Rgb, a: Rgb, b: Rgb): Rgb => (contrast(on, a) >= contrast(on, b) ? a : b);

/** Calls back when the colours of the page may have changed: the system, a theme switch, printing. */
export function onThemeChange(callback: () => void): () => void {
  const queries = ["(prefers-color-scheme: dark)", "print"].map((query) => matchMedia(query));
  for (const query of queries) query.addEventListener("change", callback);
  const watcher = new MutationObserver(callback);
  for (const node of [document.documentElement, document.body])
    watcher.observe(node, { attributes: true, attributeFilter: ["class", "style", "data-theme"] });
  return () => {
    for (const query of queries) query.removeEventListener("change", callback);
    watcher.disconnect();
  };
}
