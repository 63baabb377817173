// A block of code with its language, colors and a copy button. The highlighter is a chunk of its
// own, asked for with the first block whose language it knows; it gives a tree, not HTML.

import { h, type ComponentChildren, type VNode } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import type { Highlighter, HighlightNode } from './highlight';
import { CopyButton } from '../shell/copybutton';

/** Beyond this, coloring would cost more time than it saves the reader. */
const MAX_COLORED = 30_000;

let loading: Promise<Highlighter> | undefined;

export function CodeBlock({ text, language }: { text: string; language: string }): VNode {
  const [highlighter, setHighlighter] = useState<Highlighter>();
  const wanted = language !== '' && text.length <= MAX_COLORED;
  useEffect(() => {
    if (!wanted) return;
    loading ??= import('./highlight').then((module) => module.highlighter);
    loading.then((value) => setHighlighter(() => value)).catch(() => (loading = undefined));
  }, [wanted]);
  // Not again with every token that comes after the block.
  const tree = useMemo(
    () => (wanted ? highlighter?.(language, text) : undefined),
    [highlighter, wanted, language, text],
  );
  const label = language || 'text';
  return (
    <figure class="code">
      <figcaption>
        <span>{label}</span>
        <CopyButton text={text} label="Copy code" />
      </figcaption>
      <pre tabIndex={0} role="group" aria-label={`Code, ${label}`}>
        <code>{tree ? tree.map(nodeOf) : text}</code>
      </pre>
    </figure>
  );
}

function nodeOf(node: HighlightNode): ComponentChildren {
  if ('value' in node) return node.value;
  return h('span', { class: node.classes.join(' ') }, node.children.map(nodeOf));
}
