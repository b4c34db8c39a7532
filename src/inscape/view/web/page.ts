// The report page's own behaviour: copying a call, and marking in the contents where the reader is.

export function wakePage(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("button[data-copy]"))
    button.addEventListener("click", () => void copy(button));
  markContents();
}

async function copy(button: HTMLButtonElement): Promise<void> {
  const code = button.parentElement?.querySelector("code");
  if (!code) return;
  try {
    await navigator.clipboard.writeText(code.textContent ?? "");
    button.textContent = "copied";
  } catch {
    // A page opened as a file may not write to the clipboard; then the call is selected for the reader to copy.
    getSelection()?.selectAllChildren(code);
    button.textContent = "selected";
  }
  setTimeout(() => (button.textContent = "copy"), 1600);
}

function markContents(): void {
  const links = new Map([...document.querySelectorAll<HTMLAnchorElement>("nav a[href^='#']")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll<HTMLElement>("main section[id]")].filter((section) => links.has(section.id));
  if (!sections.length) return;
  const update = () => {
    const atEnd = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.3);
    const here = atEnd ? sections.at(-1) : passed.at(-1);
    for (const [id, link] of links) {
      if (id === here?.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", update, { passive: true });
  update();
}
