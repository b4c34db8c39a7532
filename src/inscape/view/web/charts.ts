// Draws the page's Vega-Lite figures with the Vega inlined beside this bundle, in the light or dark settings the page
// carries. Expressions are interpreted, not compiled, so the page's policy needs no eval.
import { onThemeChange } from "./colour.ts";

interface View {
  finalize(): void;
  toImageURL(type: string, scale?: number): Promise<string>;
}
interface Embedded {
  view: View;
  finalize(): void;
}
interface Spec {
  width?: unknown;
  autosize?: unknown;
  config?: unknown;
  [key: string]: unknown;
}
type Embed = (node: HTMLElement, spec: Spec, options: Record<string, unknown>) => Promise<Embedded>;

const OPTIONS = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: { theme: "inscape", disableDefaultStyle: true } };

const NARROW = 520; // px; below this a row of legend entries is wider than the figure

function narrow(config: Record<string, unknown>): Record<string, unknown> {
  const layout = { top: { anchor: "start", direction: "vertical", margin: 6 } };
  const style = { ...(config.style as Record<string, object>) };
  for (const name of ["cell-label", "cell-label-strong"]) style[name] = { ...style[name], fontSize: 8.5 };
  return { ...config, style, legend: { ...(config.legend as object), columns: 1, titleOrient: "top", layout } };
}

export function isDark(): boolean {
  const probe = document.createElement("span");
  probe.style.cssText = "color: light-dark(#000000, #ffffff)";
  document.body.append(probe);
  const dark = getComputedStyle(probe).color !== "rgb(0, 0, 0)";
  probe.remove();
  return dark && !matchMedia("print").matches;
}

/** All figures, again whenever the theme changes; one at a time, so that the page stays usable meanwhile. */
export function drawCharts(): void {
  const embed = (window as unknown as { vegaEmbed?: Embed }).vegaEmbed;
  const settings = document.getElementById("inscape-themes")?.textContent;
  const nodes = [...document.querySelectorAll<HTMLElement>("[data-vega]")];
  if (!embed || !settings || !nodes.length) return;
  const themes = JSON.parse(settings) as Record<"light" | "dark", Record<string, unknown>>;
  const drawn = new Map<HTMLElement, Embedded>();
  let [now, turn] = ["", 0];
  const redraw = async () => {
    const theme = isDark() ? "dark" : "light";
    if (theme === now) return;
    now = theme;
    const mine = ++turn;
    for (const node of nodes) {
      const text = node.querySelector("script")?.textContent;
      const target = node.querySelector<HTMLElement>(".chart");
      if (!text || !target) continue;
      const spec = JSON.parse(text) as Spec;
      spec.config = { ...themes[theme], background: "transparent" };
      // A wish for a width is a figure for paper; on the page a figure takes the room there is.
      if (typeof spec.width === "number" && ("encoding" in spec || "layer" in spec)) {
        spec.width = "container";
        spec.autosize = { type: "fit-x", contains: "padding" };
        if (target.clientWidth < NARROW) spec.config = narrow(spec.config as Record<string, unknown>);
      }
      drawn.get(node)?.finalize();
      try {
        drawn.set(node, await embed(target, spec, OPTIONS));
        node.dataset.vega = "drawn";
      } catch (error) {
        target.textContent = `This figure could not be drawn: ${String(error)}`;
        node.dataset.vega = "failed";
      }
      if (mine !== turn) return; // the theme changed again meanwhile
    }
  };
  void redraw();
  onThemeChange(() => void redraw());
  for (const button of document.querySelectorAll<HTMLButtonElement>("button[data-save]"))
    button.addEventListener("click", async () => {
      const figure = button.closest("figure");
      const chart = figure?.querySelector<HTMLElement>("[data-vega]");
      const kind = button.dataset.save ?? "svg";
      const made = chart ? drawn.get(chart) : undefined;
      if (made) save(await made.view.toImageURL(kind, 2), `${figure?.id || "figure"}.${kind}`);
    });
}

/** Offers a file to keep: the page makes it itself and nothing is fetched. */
export function save(url: string, name: string): void {
  const link = document.createElement("a");
  [link.href, link.download] = [url, name];
  link.click();
}
