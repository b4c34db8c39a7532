// <inscape-circuit>: what hands what to whom. Hover for the neighbours, click for everything up and down the stream, and
// a slider that leaves only the strongest edges. Layers go upwards; the data say where everything stands.
import { inlineData, make, place, shadow } from "./parts.ts";
import { numeral, visible } from "./text.ts";

interface GraphNode { id: string; name: string; about: string; kind: string; x: number; y: number; role: string; weight: number | null }
interface GraphEdge { from: string; to: string; through: string; weight: number }
export interface CircuitData {
  nodes: GraphNode[]; edges: GraphEdge[]; rows: string[]; columns: string[]; roles: string[]; most: number; left_out: number; label: string;
}

const HUES = ["light-dark(#0b6aa6, #5fb2e6)", "light-dark(#cf5a0a, #f0904a)", "light-dark(#008a66, #35c39b)", "light-dark(#a8558b, #d990bf)",
  "light-dark(#9a7400, #d9b23c)", "light-dark(#2f93c9, #a3cdea)"];
const ENTER: Record<string, number> = { q: -0.3, k: 0, v: 0.3 }; // where an edge comes in, in widths of the node
const [LEFT, TOP, FOOT] = [64, 18, 40];
const STYLE = `
.pane { overflow-x: auto; }
svg { display: block; font: 11.5px var(--font); }
.lane { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--faint); font-size: 11px; }
.edge { fill: none; stroke: var(--accent); stroke-linecap: round; transition: opacity 120ms; }
.edge.minus { stroke: var(--warm); }
.node { cursor: pointer; transition: opacity 120ms; outline: none; }
.node rect { fill: var(--paper); stroke: var(--faint); stroke-width: 1.25; }
.node text { fill: var(--ink); text-anchor: middle; dominant-baseline: central; pointer-events: none; font-variant-numeric: tabular-nums; }
.node.embed rect, .node.logits rect { fill: var(--panel); stroke: var(--rule); }
.node.error rect { stroke-dasharray: 2.5 2.5; }
.node.roled rect { stroke: var(--hue); stroke-width: 1.75; fill: color-mix(in srgb, var(--hue) 14%, var(--paper)); }
.node:hover rect, .node:focus-visible rect { stroke: var(--ink); }
.node.pinned rect { stroke: var(--ink); stroke-width: 2.25; }
.dim { opacity: 0.1; } .node.dim { opacity: 0.28; }
.bar label { display: inline-flex; align-items: center; gap: 8px; font-size: 12px; }
.bar input { accent-color: var(--accent); width: 130px; }
.bar output { font-variant-numeric: tabular-nums; min-width: 8.5em; }
.role { display: inline-flex; align-items: center; gap: 6px; font: inherit; font-size: 12px; color: var(--quiet); background: none; border: 0; padding: 2px 4px; border-radius: 5px; cursor: pointer; }
.role i { width: 10px; height: 10px; border-radius: 3px; background: var(--hue); }
.role[aria-pressed="true"] { color: var(--ink); box-shadow: 0 0 0 1px var(--rule); }
.sign { display: inline-flex; align-items: center; gap: 6px; font-size: 12px; } .sign i { width: 20px; height: 3px; border-radius: 2px; }
.tip td.way { color: var(--quiet); padding-left: 8px; }
`;

export class InscapeCircuit extends HTMLElement {
  declare data?: CircuitData;
  private given!: CircuitData;
  private least = 0;
  private pinned: string | null = null;
  private chosen = "";
  private lines: { edge: GraphEdge; path: SVGElement }[] = [];
  private boxes = new Map<string, { node: GraphNode; group: SVGElement; x: number; y: number; w: number; h: number }>();
  private pane!: HTMLElement;
  private tip!: HTMLElement;
  private voice!: HTMLElement;
  private said!: HTMLOutputElement;
  private note!: HTMLElement;
  private sizes: ResizeObserver | null = null;
  private wide = 0;

  connectedCallback(): void {
    const data = inlineData<CircuitData>(this);
    if (!data || !data.nodes.length) return;
    this.given = data;
    const root = shadow(this, STYLE);
    this.pane = make("div", { class: "pane" });
    this.tip = make("div", { class: "tip", role: "tooltip", hidden: "" });
    this.voice = make("div", { class: "silent", "aria-live": "polite" });
    this.note = make("p", { class: "note" });
    root.append(this.controls(), this.pane, this.note, this.tip, this.voice);
    this.sizes = new ResizeObserver(() => {
      if (Math.abs(this.clientWidth - this.wide) > 8) this.build();
    });
    this.sizes.observe(this);
    root.addEventListener("keydown", (event) => (event as KeyboardEvent).key === "Escape" && this.pin(null));
    this.build();
  }

  disconnectedCallback(): void {
    this.sizes?.disconnect();
  }

  private controls(): HTMLElement {
    const { edges, roles } = this.given;
    const bar = make("div", { class: "bar" });
    if (edges.length > 1) {
      const range = make("input", { type: "range", min: "0", max: String(edges.length - 1), value: "0", "aria-label": "Leave out weaker edges" });
      this.said = make("output");
      range.addEventListener("input", () => {
        const count = edges.length - Number(range.value); // edges come sorted, the strongest first
        this.least = Math.abs(edges[count - 1]!.weight);
        if (count === edges.length) this.least = 0;
        this.paint();
      });
      bar.append(make("label", {}, "Edges", range, this.said));
    } else this.said = make("output");
    roles.forEach((role, index) => {
      const button = make("button", { type: "button", class: "role", "aria-pressed": "false" }, make("i"), role);
      button.style.setProperty("--hue", HUES[index % HUES.length]!);
      button.addEventListener("click", () => {
        this.chosen = this.chosen === role ? "" : role;
        for (const other of bar.querySelectorAll(".role")) other.setAttribute("aria-pressed", String(other === button && this.chosen !== ""));
        this.paint();
      });
      bar.append(button);
    });
    if (edges.some((edge) => edge.weight < 0))
      for (const [hue, says] of [["var(--accent)", "above 0"], ["var(--warm)", "below 0"]] as const) {
        const strip = make("i");
        strip.style.background = hue;
        bar.append(make("span", { class: "sign" }, strip, says));
      }
    return bar;
  }

  private build(): void {
    const { nodes, edges, rows, columns, roles, most, label } = this.given;
    this.wide = this.clientWidth || 720;
    const high = Math.max(1, ...nodes.map((node) => node.y));
    const dense = nodes.length > 120;
    const names = new Map(nodes.map((node) => [node.id, dense && node.kind !== "head" ? "" : short(node)]));
    const widest = Math.max(...[...names.values()].map((name) => 16 + 6.6 * name.length), dense ? 12 : 44);
    const [from, to] = [Math.min(0, ...nodes.map((node) => node.x)), Math.max(columns.length - 1, ...nodes.map((node) => node.x))];
    const gap = Math.max((this.wide - LEFT - widest - 12) / Math.max(1, to - from), dense ? 26 : widest + 14);
    const across = to > from ? Math.min(gap, 190) : 0;
    const room = Math.max(this.wide, LEFT + widest + across * (to - from) + 12);
    const start = LEFT + (room - LEFT - across * (to - from)) / 2 - from * across;
    const step = Math.min(92, Math.max(44, 560 / (high + 1)));
    const tall = TOP + high * step + 30 + FOOT;
    const at = (node: GraphNode) => ({ x: start + node.x * across, y: TOP + 14 + (high - node.y) * step });
    const svg = draw("svg", { width: room, height: tall, viewBox: `0 0 ${room} ${tall}`, role: "group", "aria-label": `${label} ${nodes.length} nodes, ${edges.length} edges. Tab moves between nodes, enter pins one, escape lets go.` });
    rows.forEach((name, row) => {
      const y = TOP + 14 + (high - row) * step;
      if (!name) return;
      svg.append(draw("line", { class: "lane", x1: LEFT - 6, x2: room, y1: y, y2: y }), text(name, 0, y, "tick"));
    });
    const each = Math.max(1, Math.ceil(44 / Math.max(1, across)));
    columns.forEach((name, column) => {
      if (column % each || !name) return;
      const tag = text(visible(name).slice(0, 14), start + column * across, tall - 12, "tick");
      tag.setAttribute("text-anchor", "middle");
      svg.append(tag);
    });
    this.boxes.clear();
    for (const node of nodes) {
      const name = names.get(node.id)!;
      const w = name ? Math.max(34, 16 + 6.6 * name.length) : 12;
      const h = name ? 24 : 12;
      const { x, y } = at(node);
      const group = draw("g", { class: `node ${node.kind}${node.role ? " roled" : ""}`, tabindex: 0, role: "button", transform: `translate(${x} ${y})`, "aria-label": `${node.name}, ${node.about}${node.role ? `, ${node.role}` : ""}`, "data-id": node.id });
      if (node.role) (group as SVGElement & { style: CSSStyleDeclaration }).style.setProperty("--hue", HUES[roles.indexOf(node.role) % HUES.length]!);
      group.append(draw("rect", { x: -w / 2, y: -h / 2, width: w, height: h, rx: node.kind === "mlp" ? 4 : h / 2 }));
      if (name) group.append(text(name, 0, 0, ""));
      group.addEventListener("pointerenter", () => this.hover(node.id));
      group.addEventListener("pointerleave", () => this.hover(null));
      group.addEventListener("focus", () => this.hover(node.id));
      group.addEventListener("blur", () => this.hover(null));
      group.addEventListener("click", () => this.pin(this.pinned === node.id ? null : node.id));
      group.addEventListener("keydown", (event) => {
        if ((event as KeyboardEvent).key === "Enter" || (event as KeyboardEvent).key === " ") {
          event.preventDefault();
          this.pin(this.pinned === node.id ? null : node.id);
        }
      });
      this.boxes.set(node.id, { node, group, x, y, w, h });
    }
    this.lines = edges.map((edge) => {
      const [a, b] = [this.boxes.get(edge.from)!, this.boxes.get(edge.to)!];
      const share = Math.abs(edge.weight) / most;
      const [y1, y2] = [a.y - a.h / 2, b.y + b.h / 2];
      const x2 = b.x + (ENTER[edge.through] ?? 0) * b.w;
      const bend = Math.max(18, (y1 - y2) * 0.45);
      const over = a.x === b.x && a.node.y + 1 < b.node.y; // round what stands between, towards the middle
      const side = over ? Math.min(90, 34 + 8 * (b.node.y - a.node.y)) * (a.x > room / 2 ? -1 : 1) : 0;
      const path = draw("path", { class: `edge${edge.weight < 0 ? " minus" : ""}`, d: `M${a.x} ${y1}C${a.x + side} ${y1 - bend} ${x2 + side} ${y2 + bend} ${x2} ${y2}`, "stroke-width": 0.75 + 4.25 * share, "stroke-opacity": 0.3 + 0.55 * share });
      return { edge, path };
    });
    const layer = draw("g", {});
    layer.append(...this.lines.map((line) => line.path).reverse());
    svg.append(layer, ...[...this.boxes.values()].map((box) => box.group));
    svg.addEventListener("click", (event) => (event.target as Element).closest(".node") === null && this.pin(null));
    this.pane.replaceChildren(svg);
    this.paint();
  }

  private strong = (edge: GraphEdge): boolean => Math.abs(edge.weight) >= this.least;

  /** Everything that reaches a node, and everything it reaches, along the edges that are shown. */
  private stream(id: string): { nodes: Set<string>; edges: Set<GraphEdge> } {
    const [nodes, edges] = [new Set([id]), new Set<GraphEdge>()];
    for (const [near, far] of [["from", "to"], ["to", "from"]] as const) {
      const [seen, waiting] = [new Set([id]), [id]];
      while (waiting.length) {
        const now = waiting.pop()!;
        for (const { edge } of this.lines)
          if (edge[near] === now && this.strong(edge)) {
            edges.add(edge);
            nodes.add(edge[far]);
            if (!seen.has(edge[far])) seen.add(edge[far]), waiting.push(edge[far]);
          }
      }
    }
    return { nodes, edges };
  }

  private paint(near: string | null = null): void {
    const shown = this.lines.filter((line) => this.strong(line.edge));
    const used = new Set(shown.flatMap((line) => [line.edge.from, line.edge.to]));
    let nodes = used.size ? used : new Set(this.boxes.keys());
    let edges: Set<GraphEdge> | null = null;
    if (near !== null && this.pinned === null) {
      edges = new Set(shown.filter(({ edge }) => edge.from === near || edge.to === near).map((line) => line.edge));
      nodes = new Set([near, ...[...edges].flatMap((edge) => [edge.from, edge.to])]);
    } else if (this.pinned !== null) ({ nodes, edges } = this.stream(this.pinned));
    else if (this.chosen) {
      const mine = new Set(this.given.nodes.filter((node) => node.role === this.chosen).map((node) => node.id));
      edges = new Set(shown.filter(({ edge }) => mine.has(edge.from) || mine.has(edge.to)).map((line) => line.edge));
      nodes = mine;
    }
    for (const { edge, path } of this.lines) {
      path.style.display = this.strong(edge) ? "" : "none";
      path.classList.toggle("dim", edges !== null && !edges.has(edge));
    }
    for (const [id, { group }] of this.boxes) {
      group.classList.toggle("dim", !nodes.has(id));
      group.classList.toggle("pinned", id === this.pinned);
    }
    const all = this.lines.length;
    this.said.value = shown.length === all ? `all ${all}` : `${shown.length} of ${all}, from ${numeral(this.least)}`;
    const left = this.given.left_out ? ` ${this.given.left_out.toLocaleString("en-US")} weaker edges are left out.` : "";
    const name = this.pinned === null ? "" : this.boxes.get(this.pinned)!.node.name;
    this.note.textContent = (this.pinned === null ? "Point at a node for its neighbours; click it for all that leads to it and from it." :
      `Shown: what leads to ${name} and what it leads to, ${edges!.size} edges. Click it again, or press escape, to let go.`) + left;
  }

  private pin(id: string | null): void {
    this.pinned = id;
    this.paint();
    this.voice.textContent = this.note.textContent;
  }

  private hover(id: string | null): void {
    this.paint(id);
    if (id === null) return void (this.tip.hidden = true);
    const { node, group } = this.boxes.get(id)!;
    const rows: Node[] = [];
    for (const [end, other, says] of [["to", "from", "hears"], ["from", "to", "tells"]] as const) {
      const mine = this.lines.filter(({ edge }) => edge[end] === id && this.strong(edge)).map((line) => line.edge);
      mine.slice(0, 6).forEach((edge, index) => rows.push(make("tr", {}, make("td", {}, index ? "" : says),
        make("td", { class: "way" }, `${visible(this.boxes.get(edge[other])!.node.name)}${edge.through && edge.through !== "mlp" ? ` (${edge.through})` : ""}`),
        make("td", { class: "amount" }, numeral(edge.weight)))));
      if (mine.length > 6) rows.push(make("tr", {}, make("td", {}, ""), make("td", { class: "way" }, `and ${mine.length - 6} more`)));
    }
    const where = make("div", { class: "where" }, make("code", {}, visible(node.name)), ` ${node.about}${node.role ? ` \u00b7 ${node.role}` : ""}`);
    this.tip.replaceChildren(where, make("table", {}, make("tbody", {}, ...rows)));
    place(this.tip, group.getBoundingClientRect());
  }
}

function short(node: GraphNode): string {
  const name = visible(node.name);
  return name.length > 16 ? `${name.slice(0, 15)}\u2026` : name;
}

function draw(tag: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, typeof value === "number" ? String(Math.round(value * 100) / 100) : value);
  return made;
}

function text(words: string, x: number, y: number, kind: string): SVGElement {
  const made = draw("text", { x, y, class: kind, "dominant-baseline": "central" });
  made.textContent = words;
  return made;
}
