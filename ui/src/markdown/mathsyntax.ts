// Formulas in Markdown: $…$ and \(…\) in a line, $$…$$ and \[…\] on their own.
//
// A dollar opens a formula only before a non-space, and closes it only after a non-space and not
// before a digit (pandoc's rule): "from $5 to $10" stays text.

import type { MarkdownIt } from 'markdown-it';

const BACKSLASH = 0x5c;
const DOLLAR = 0x24;

/** Where the formula that begins at `start` ends, and which text it has. */
export interface Formula {
  text: string;
  end: number;
  display: boolean;
}

export function formulaAt(source: string, start: number): Formula | null {
  const code = source.charCodeAt(start);
  if (code === BACKSLASH) {
    const closer = { '(': '\\)', '[': '\\]' }[source[start + 1] ?? ''];
    return closer ? between(source, start, 2, closer, closer === '\\]') : null;
  }
  if (code !== DOLLAR) return null;
  if (source[start + 1] === '$') return between(source, start, 2, '$$', true);
  return inDollars(source, start);
}

function between(
  source: string,
  start: number,
  skip: number,
  closer: string,
  display: boolean,
): Formula | null {
  const end = source.indexOf(closer, start + skip);
  if (end < 0) return null;
  const text = source.slice(start + skip, end).trim();
  return text ? { text, end: end + closer.length, display } : null;
}

function inDollars(source: string, start: number): Formula | null {
  if (/\s|^$/.test(source[start + 1] ?? '')) return null;
  for (let at = start + 1; at < source.length; at += 1) {
    const letter = source[at];
    if (letter === '\\') at += 1;
    else if (letter === '\n' && source[at + 1] === '\n') return null;
    else if (letter === '$') {
      const closes = !/\s/.test(source[at - 1] ?? '') && !/\d/.test(source[at + 1] ?? '');
      return closes ? { text: source.slice(start + 1, at), end: at + 1, display: false } : null;
    }
  }
  return null;
}

export function mathSyntax(markdown: MarkdownIt): void {
  markdown.inline.ruler.before('escape', 'math', (state, silent) => {
    const formula = formulaAt(state.src.slice(0, state.posMax), state.pos);
    if (!formula) return false;
    if (!silent) {
      const token = state.push(formula.display ? 'math_block' : 'math_inline', '', 0);
      token.content = formula.text;
    }
    state.pos = formula.end;
    return true;
  });
  markdown.block.ruler.before(
    'fence',
    'math_block',
    (state, line, lastLine, silent) => {
      const start = (state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0);
      const opener = state.src.slice(start, start + 2);
      if (opener !== '$$' && opener !== '\\[') return false;
      const formula = formulaAt(state.src.slice(0, state.eMarks[lastLine - 1]), start);
      if (!formula) return false;
      let next = line;
      while (next < lastLine && (state.eMarks[next] ?? 0) < formula.end) next += 1;
      // Text after it on its last line: a formula within a paragraph.
      if (state.src.slice(formula.end, state.eMarks[next]).trim()) return false;
      if (silent) return true;
      const token = state.push('math_block', '', 0);
      token.content = formula.text;
      token.map = [line, next + 1];
      state.line = next + 1;
      return true;
    },
    { alt: ['paragraph', 'blockquote', 'list'] },
  );
}
