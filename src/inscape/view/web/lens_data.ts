// The data of the token x layer view, and the three ways to colour it.
import { mix, type Palette, type Rgb } from "./colour.ts";
import { numeral } from "./text.ts";

type Numbers = (number | null)[];

export interface LensData {
  tokens: string[]; // what the model reads, one a position
  layers: string[]; // row names, first to last
  vocab: string[]; // every token that occurs below, once
  top: number[][][]; // [layer][position][k]: indices into vocab, most probable first
  p: Numbers[][]; // [layer][position][k]
  entropy: Numbers[] | null; // [layer][position], nats
  rank: Numbers[] | null; // [layer][position]: rank of the final token, 1 is the top
  final: number[] | null; // [position]: index of the model's own final token
  how: string; // which norm and unembedding made the numbers
  label: string;
}

export interface Measure {
  name: string;
  low: string;
  high: string;
  /** 0 to 1, or null where there is a gap. */
  at: (layer: number, position: number) => number | null;
  colour: (t: number, palette: Palette) => Rgb;
}

const calm = (t: number, palette: Palette) => mix(palette.panel, palette.accent, t);
const hot = (t: number, palette: Palette) => mix(palette.panel, palette.warm, t);

function largest(rows: Numbers[]): number {
  let most = 0;
  for (const row of rows) for (const value of row) if (value !== null && value > most) most = value;
  return most;
}

/** Probability always; entropy and rank where the data has them. */
export function measures(data: LensData): Measure[] {
  const found: Measure[] = [
    { name: "Probability", low: "0", high: "1", at: (l, s) => data.p[l]?.[s]?.[0] ?? null, colour: calm },
  ];
  const { entropy, rank } = data;
  if (entropy) {
    const most = largest(entropy) || 1;
    const at = (l: number, s: number) => (entropy[l]?.[s] == null ? null : (entropy[l]![s] as number) / most);
    found.push({ name: "Entropy", low: "0", high: `${numeral(most)} nats`, at, colour: hot });
  }
  if (rank) {
    const most = Math.max(2, largest(rank));
    const at = (l: number, s: number) => (rank[l]?.[s] == null ? null : 1 - Math.log(rank[l]![s] as number) / Math.log(most));
    found.push({ name: "Rank of the answer", low: numeral(most), high: "1", at, colour: calm });
  }
  return found;
}
