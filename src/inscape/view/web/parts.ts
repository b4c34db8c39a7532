// What the elements share: building nodes, the style of controls, the tooltip, reading the inline data.

type Child = Node | string | null;

/** A node with attributes and children; text goes in as text, never as markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child): child is Node | string => child !== null));
  return node;
}

/** The JSON in the element's own `<script type="application/json">`, or what was set as its `data` property. */
export function inlineData<T>(host: HTMLElement & { data?: T }): T | null {
  if (host.data) return host.data;
  const text = host.querySelector('script[type="application/json"]')?.textContent;
  return text ? (JSON.parse(text) as T) : null;
}

export const STYLE = `
:host { display: block; color-scheme: inherit; font: 13px/1.45 var(--font); color: var(--ink);
  --paper: var(--ins-paper, light-dark(#ffffff, #14181c)); --panel: var(--ins-panel, light-dark(#f6f7f8, #1b2025));
  --rule: var(--ins-rule, light-dark(#e3e6e9, #2d343b)); --faint: var(--ins-faint, light-dark(#8a939c, #7d8791));
  --quiet: var(--ins-quiet, light-dark(#59636d, #a5aeb7)); --ink: var(--ins-ink, light-dark(#1b2127, #e7eaed));
  --accent: var(--ins-accent, light-dark(#0b6aa6, #5fb2e6)); --warm: var(--ins-warm, light-dark(#b8560b, #e8985a));
  --font: var(--ins-font, system-ui, sans-serif); --mono: var(--ins-mono, ui-monospace, monospace); }
:host([hidden]) { display: none; }
.bar { display: flex; flex-wrap: wrap; gap: 8px 20px; align-items: center; margin-bottom: 10px; color: var(--quiet); }
.bar .room { flex: 1; }
.choice { display: inline-flex; border: 1px solid var(--rule); border-radius: 7px; padding: 2px; background: var(--panel); }
.choice button { font: inherit; font-size: 12px; color: var(--quiet); background: none; border: 0; border-radius: 5px;
  padding: 2px 10px; cursor: pointer; }
.choice button[aria-pressed="true"] { background: var(--paper); color: var(--ink); box-shadow: 0 0 0 1px var(--rule); }
button:focus-visible, .focus:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.key { display: inline-flex; align-items: center; gap: 7px; font-size: 12px; font-variant-numeric: tabular-nums; }
.key i { width: 110px; height: 9px; border-radius: 3px; box-shadow: inset 0 0 0 1px var(--rule); }
.note { margin: 8px 0 0; font-size: 12px; color: var(--quiet); }
.note b { color: var(--ink); }
.tip { position: fixed; z-index: 10; inset: auto; margin: 0; max-width: min(350px, calc(100vw - 24px)); pointer-events: none;
  padding: 10px 12px; border-radius: 8px; background: var(--paper); color: var(--ink); border: 1px solid var(--rule);
  box-shadow: 0 6px 24px rgb(0 0 0 / 0.16); font-size: 12px; }
.tip[hidden] { display: none; }
.tip .where { color: var(--quiet); margin-bottom: 6px; overflow-wrap: anywhere; }
.tip code { font-family: var(--mono); font-size: 12px; color: var(--ink); }
.tip table { border-spacing: 0; width: 100%; }
.tip td { padding: 1.5px 0; white-space: nowrap; }
.tip td.amount { padding-left: 12px; text-align: right; font-variant-numeric: tabular-nums; color: var(--quiet); }
.tip td.token { max-width: 150px; overflow: hidden; text-overflow: ellipsis; font-family: var(--mono); }
.tip td.size { width: 84px; padding-left: 12px; }
.tip td.size i { display: block; height: 6px; border-radius: 2px; background: var(--accent); min-width: 1px; }
.tip .end { margin-top: 7px; padding-top: 7px; border-top: 1px solid var(--rule); color: var(--quiet); }
.silent { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media print { .tip, .choice { display: none; } }
`;

/** Opens the shadow root with the shared style; a constructed sheet needs no inline style in the page's policy. */
export function shadow(host: HTMLElement, extra: string): ShadowRoot {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE + extra);
  root.adoptedStyleSheets = [sheet];
  root.replaceChildren();
  return root;
}

/** A row of buttons of which one is pressed. */
export function choice(label: string, names: string[], chosen: number, pick: (index: number) => void): HTMLElement {
  const buttons = names.map((name, index) => {
    const button = make("button", { type: "button", "aria-pressed": String(index === chosen) }, name);
    button.addEventListener("click", () => {
      buttons.forEach((other, at) => other.setAttribute("aria-pressed", String(at === index)));
      pick(index);
    });
    return button;
  });
  return make("span", { class: "choice", role: "group", "aria-label": label }, ...buttons);
}

/** Puts the tooltip beside a rectangle of the window, on the side where it fits. */
export function place(tip: HTMLElement, box: { left: number; top: number; right: number; bottom: number }): void {
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(12, (box.left + box.right - width) / 2), innerWidth - width - 12);
  const below = box.bottom + 8;
  const top = below + height < innerHeight - 8 ? below : Math.max(8, box.top - height - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}
