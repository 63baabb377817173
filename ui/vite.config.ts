// How the page is built: relative addresses, so that it works below any path; nothing inline, so
// that it works under the policy of README.md; the same bytes from the same lock file.

import { defineConfig, type Plugin } from 'vite';

/** Leaves KaTeX's woff and ttf fonts out: every browser this page supports reads woff2. */
function woff2Only(): Plugin {
  return {
    name: 'woff2-only',
    enforce: 'pre',
    transform(code, id) {
      if (!id.includes('katex') || !id.split('?')[0]?.endsWith('.css')) return null;
      const kept = code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\(["'](?:woff|truetype)["']\)/g, '');
      return { code: kept, map: null };
    },
  };
}

export default defineConfig({
  base: './',
  plugins: [woff2Only()],
  build: {
    outDir: process.env['UI_OUT'] ?? 'dist',
    emptyOutDir: true,
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox121', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: 'licenses.md' },
  },
  server: { proxy: { '/v1': process.env['PUNA'] ?? 'http://127.0.0.1:8080' } },
});
