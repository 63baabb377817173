// A formula by KaTeX, a chunk of its own with its fonts. KaTeX builds elements and sets their style
// through the DOM, which a policy without 'unsafe-inline' allows; `trust` stays off, so that a
// formula cannot make links, load images or set attributes. What it cannot read is shown as written.

import type { VNode } from 'preact';
import { useEffect, useRef } from 'preact/hooks';

/** Largest size in ems, and macro expansions: a formula cannot cover or hang the page. */
const MAX_SIZE_EM = 20;
const MAX_EXPANSIONS = 300;

let loading: Promise<typeof import('./katex')> | undefined;

export function Formula({ text, display }: { text: string; display: boolean }): VNode {
  const place = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    let wanted = true;
    loading ??= import('./katex');
    loading
      .then(({ katex }) => {
        if (!wanted || !place.current) return;
        const options = { displayMode: display, maxSize: MAX_SIZE_EM, maxExpand: MAX_EXPANSIONS };
        const drawn = document.createElement('span');
        katex.render(text, drawn, {
          ...options,
          throwOnError: true,
          trust: false,
          strict: 'ignore',
          errorColor: 'currentColor',
        });
        place.current.replaceChildren(...drawn.childNodes);
      })
      .catch(() => {
        if (wanted) place.current?.replaceChildren(text);
        place.current?.classList.add('unread');
      });
    return () => {
      wanted = false;
    };
  }, [text, display]);
  const keyboard = display ? { tabIndex: 0, role: 'group' as const, 'aria-label': 'Formula' } : {};
  return (
    <span ref={place} class={display ? 'formula display' : 'formula'} {...keyboard} data-source={text} />
  );
}
