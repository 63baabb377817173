// Markdown as elements. The parser's tokens become nodes one by one; no HTML text is ever written,
// so there is nothing to sanitize and the page runs under Trusted Types.
//
// Images are shown as links: loading one would tell its server that, and what, the reader reads.

import MarkdownIt, { type Token } from 'markdown-it';
import { h, type ComponentChildren, type VNode } from 'preact';
import { useMemo } from 'preact/hooks';
import { CodeBlock } from './code';
import { Formula } from './formula';
import { mathSyntax } from './mathsyntax';

const parser = new MarkdownIt({ html: false, linkify: true, breaks: false }).use(mathSyntax);

/** Elements that a token's tag may become; h1 and h2 are the page's own. */
const ELEMENTS: Record<string, string> = {
  p: 'p',
  blockquote: 'blockquote',
  ul: 'ul',
  ol: 'ol',
  li: 'li',
  hr: 'hr',
  em: 'em',
  strong: 'strong',
  s: 's',
  table: 'table',
  thead: 'thead',
  tbody: 'tbody',
  tr: 'tr',
  th: 'th',
  td: 'td',
  h1: 'h3',
  h2: 'h4',
  h3: 'h5',
  h4: 'h6',
  h5: 'h6',
  h6: 'h6',
};

export function Markdown({ text }: { text: string }): VNode {
  const nodes = useMemo(() => nodesOf(parser.parse(text, {})), [text]);
  return <div class="markdown">{nodes}</div>;
}

/** The address if it may be followed, else nothing. */
export function safeAddress(address: string): string | undefined {
  try {
    const url = new URL(address);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

interface Open {
  token: Token | null;
  children: ComponentChildren[];
}

function nodesOf(tokens: Token[]): ComponentChildren[] {
  const stack: Open[] = [{ token: null, children: [] }];
  for (const token of tokens) {
    const top = stack[stack.length - 1] as Open;
    if (token.nesting === 1) {
      stack.push({ token, children: [] });
    } else if (token.nesting === -1) {
      if (stack.length === 1) continue;
      stack.pop();
      (stack[stack.length - 1] as Open).children.push(element(top.token as Token, top.children));
    } else {
      top.children.push(leaf(token));
    }
  }
  while (stack.length > 1) {
    const top = stack.pop() as Open;
    (stack[stack.length - 1] as Open).children.push(element(top.token as Token, top.children));
  }
  return (stack[0] as Open).children;
}

function element(token: Token, children: ComponentChildren[]): ComponentChildren {
  // A paragraph of a tight list is no paragraph.
  if (token.hidden) return children;
  if (token.type === 'link_open') return link(String(token.attrGet('href') ?? ''), children);
  const name = ELEMENTS[token.tag];
  if (!name) return children;
  if (name === 'table') {
    return (
      <div class="wide" tabIndex={0} role="group" aria-label="Table">
        {h('table', null, children)}
      </div>
    );
  }
  const attributes: Record<string, unknown> = {};
  if (name === 'ol' && token.attrGet('start')) attributes['start'] = Number(token.attrGet('start'));
  const align = /text-align:(left|center|right)/.exec(String(token.attrGet('style') ?? ''))?.[1];
  if (align) attributes['class'] = `align-${align}`;
  return h(name, attributes, children);
}

function link(address: string, children: ComponentChildren): ComponentChildren {
  const href = safeAddress(address);
  if (!href) return children;
  return (
    <a href={href} title={href} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function leaf(token: Token): ComponentChildren {
  switch (token.type) {
    case 'inline':
      return nodesOf(token.children ?? []);
    case 'softbreak':
      return '\n';
    case 'hardbreak':
      return <br />;
    case 'hr':
      return <hr />;
    case 'code_inline':
      return <code>{token.content}</code>;
    case 'fence':
    case 'code_block':
      return <CodeBlock text={token.content} language={(token.info ?? '').trim().split(/\s+/)[0] ?? ''} />;
    case 'math_inline':
      return <Formula text={token.content} display={false} />;
    case 'math_block':
      return <Formula text={token.content} display />;
    case 'image':
      return link(String(token.attrGet('src') ?? ''), `[image: ${token.content || 'without a description'}]`);
    default:
      return token.content;
  }
}
