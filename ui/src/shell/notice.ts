// A line at the foot of the page that says what just happened, with at most one way to act on it.

import { signal } from '@preact/signals';

export interface Notice {
  text: string;
  action?: { label: string; act: () => void };
}

const SHOWN_MS = 8000;
let timer = 0;

export const notice = signal<Notice | null>(null);

export function say(text: string, action?: Notice['action']): void {
  window.clearTimeout(timer);
  notice.value = action ? { text, action } : { text };
  timer = window.setTimeout(hush, SHOWN_MS);
}

export function hush(): void {
  notice.value = null;
}
