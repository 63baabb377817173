// The head of every page: the button that opens the drawer on a phone, the title, the page's tools.

import type { ComponentChildren, VNode } from 'preact';
import { useEffect } from 'preact/hooks';
import { Icon } from './icons';
import { drawerOpen } from './sidebar';

export function Header({ title, children }: { title: string; children?: ComponentChildren }): VNode {
  useEffect(() => {
    document.title = `${title} · puna`;
  }, [title]);
  return (
    <header class="head">
      <button
        type="button"
        class="quiet drawer-button"
        aria-label="Open the menu"
        aria-expanded={drawerOpen.value}
        onClick={() => (drawerOpen.value = true)}
      >
        <Icon name="menu" />
      </button>
      <h1 title={title}>{title}</h1>
      <div class="head-tools">{children}</div>
    </header>
  );
}
