// The page's icons: 24-unit outlines, drawn with the text's color and hidden from screen readers,
// since every button that shows one has a name.

import type { VNode } from 'preact';

const PATHS = {
  send: 'M12 19V5M5 12l7-7 7 7',
  stop: 'M7 7h10v10H7z',
  plus: 'M12 5v14M5 12h14',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  check: 'M5 13l4 4L19 7',
  redo: 'M20 11a8 8 0 1 0-2.3 5.7M20 4v7h-7',
  pencil: 'M4 20h4L19 9l-4-4L4 16zM13.5 6.5l4 4',
  up: 'M7 11v9H4v-9zM7 11l4-8c1.7 0 2.5 1 2.5 2.5V9H19a2 2 0 0 1 2 2.3l-1.2 7A2 2 0 0 1 17.8 20H7',
  down: 'M17 13V4h3v9zM17 13l-4 8c-1.7 0-2.5-1-2.5-2.5V15H5a2 2 0 0 1-2-2.3l1.2-7A2 2 0 0 1 6.2 4H17',
  left: 'M15 5l-7 7 7 7',
  right: 'M9 5l7 7-7 7',
  trash: 'M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13',
  sliders: 'M4 7h8M16 7h4M4 17h4M12 17h8M14 5a2 2 0 1 0 0 4 2 2 0 0 0 0-4M10 15a2 2 0 1 0 0 4 2 2 0 0 0 0-4',
  menu: 'M4 7h16M4 12h16M4 17h16',
  more: 'M5 11.4a.6.6 0 1 0 0 1.2.6.6 0 0 0 0-1.2M12 11.4a.6.6 0 1 0 0 1.2.6.6 0 0 0 0-1.2M19 11.4a.6.6 0 1 0 0 1.2.6.6 0 0 0 0-1.2',
  close: 'M6 6l12 12M18 6L6 18',
  chance: 'M4 20V10M10 20V4M16 20v-7M21 20H3',
  chat: 'M4 5h16v11H9l-5 4z',
  plan: 'M4 4v16h16M7 16c3-1 5-3 6-6s3-4 6-5',
  runs: 'M3 12h4l3-8 4 16 3-8h4',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5',
  moon: 'M20 14A8.5 8.5 0 1 1 10 4a7 7 0 0 0 10 10z',
  system: 'M3 5h18v11H3zM9 20h6M12 16v4',
  key: 'M15 9h.01M10 13l-7 7v1h4v-3h3v-3l1-1a6 6 0 1 0-1-1z',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): VNode {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
