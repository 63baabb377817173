// highlight.js through lowlight, which gives its result as a tree. Loaded on demand.

import { createLowlight } from 'lowlight';
import bash from 'highlight.js/lib/languages/bash';
import c from 'highlight.js/lib/languages/c';
import cpp from 'highlight.js/lib/languages/cpp';
import css from 'highlight.js/lib/languages/css';
import diff from 'highlight.js/lib/languages/diff';
import go from 'highlight.js/lib/languages/go';
import ini from 'highlight.js/lib/languages/ini';
import java from 'highlight.js/lib/languages/java';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import markdown from 'highlight.js/lib/languages/markdown';
import python from 'highlight.js/lib/languages/python';
import rust from 'highlight.js/lib/languages/rust';
import sql from 'highlight.js/lib/languages/sql';
import typescript from 'highlight.js/lib/languages/typescript';
import xml from 'highlight.js/lib/languages/xml';
import yaml from 'highlight.js/lib/languages/yaml';

const languages = {
  bash,
  c,
  cpp,
  css,
  diff,
  go,
  ini,
  java,
  javascript,
  json,
  markdown,
  python,
  rust,
  sql,
  typescript,
  xml,
  yaml,
};
const lowlight = createLowlight(languages);

export type HighlightNode = { value: string } | { classes: string[]; children: HighlightNode[] };
export type Highlighter = (language: string, text: string) => HighlightNode[] | undefined;

/** Colors a text; nothing for a language that is not known. */
export const highlighter: Highlighter = (language, text) => {
  const name = language.toLowerCase();
  if (!lowlight.registered(name)) return undefined;
  return lowlight.highlight(name, text).children.flatMap(convert);
};

type Hast = ReturnType<typeof lowlight.highlight>['children'][number];

function convert(node: Hast): HighlightNode[] {
  if (node.type === 'text') return [{ value: node.value }];
  if (node.type !== 'element') return [];
  const classes = node.properties['className'];
  const children = (node.children as Hast[]).flatMap(convert);
  return [{ classes: Array.isArray(classes) ? classes.map(String) : [], children }];
}
