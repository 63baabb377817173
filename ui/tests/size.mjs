// The first load stays small: index.html and all that it names, compressed as a server would.

import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const LIMIT_KIB = 300;
const DIST = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist');

const compressed = async (name) => {
  const bytes = await readFile(join(DIST, name));
  return (name.endsWith('.woff2') ? bytes : gzipSync(bytes, { level: 6 })).length / 1024;
};

const html = await readFile(join(DIST, 'index.html'), 'utf8');
const named = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map((found) => found[1]);
if (!named.some((name) => name.endsWith('.js'))) throw new Error('index.html names no script');
let first = 0;
for (const name of ['index.html', ...named]) first += await compressed(name);

let later = 0;
for (const name of await readdir(join(DIST, 'assets'))) {
  if (!named.includes(`assets/${name}`)) later += await compressed(`assets/${name}`);
}
console.log(`first load ${first.toFixed(1)} KiB of ${LIMIT_KIB}, loaded on demand ${later.toFixed(1)} KiB`);
if (first > LIMIT_KIB) process.exit(1);
