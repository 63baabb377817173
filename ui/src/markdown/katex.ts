// KaTeX and its style sheet in one chunk.

import 'katex/dist/katex.css';
export { default as katex } from 'katex';
