// The bundle: defines the elements once, draws what the page has, and stays quiet on a page that has nothing of ours.
import { drawCharts } from "./charts.ts";
import { InscapeCircuit } from "./circuit.ts";
import { InscapeLens } from "./lens.ts";
import { wakePage } from "./page.ts";
import { InscapeTokens } from "./strip.ts";

function wake(): void {
  if (!customElements.get("inscape-lens")) customElements.define("inscape-lens", InscapeLens);
  if (!customElements.get("inscape-tokens")) customElements.define("inscape-tokens", InscapeTokens);
  if (!customElements.get("inscape-circuit")) customElements.define("inscape-circuit", InscapeCircuit);
  drawCharts();
  wakePage();
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", wake, { once: true });
else wake();
