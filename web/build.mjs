// Bundles the custom elements into one classic script. The banner carries a digest of the sources, so that the
// tests can tell a stale bundle without running node.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const folder = fileURLToPath(new URL("../src/inscape/view/web/", import.meta.url));
const sources = readdirSync(folder).filter((name) => name.endsWith(".ts")).sort();
const digest = createHash("sha256");
for (const name of sources) digest.update(name + "\n").update(readFileSync(folder + name));

await build({
  entryPoints: [folder + "index.ts"],
  outfile: folder + "inscape.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  banner: { js: `/* inscape view elements, built from web/*.ts ${digest.digest("hex")} */` },
});
