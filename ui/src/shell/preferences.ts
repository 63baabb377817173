// What this browser remembers of its reader: theme, and whether answers come with probabilities.

import { effect, signal } from '@preact/signals';

export type Theme = 'system' | 'light' | 'dark';

/** Likeliest tokens kept for each place of an answer. */
const ALTERNATIVES = 5;

function kept<T extends string>(key: string, values: readonly T[], otherwise: T) {
  const stored = localStorage.getItem(key) as T | null;
  const value = signal<T>(stored && values.includes(stored) ? stored : otherwise);
  effect(() => localStorage.setItem(key, value.value));
  return value;
}

export const theme = kept<Theme>('puna.theme', ['system', 'light', 'dark'], 'system');
export const probabilities = kept('puna.probabilities', ['ask', 'skip'] as const, 'ask');

/** Sets `data-theme` on the document; without it the style sheet follows the system. */
export function followTheme(): void {
  effect(() => {
    const root = document.documentElement;
    if (theme.value === 'system') root.removeAttribute('data-theme');
    else root.setAttribute('data-theme', theme.value);
  });
}

export function alternativesWanted(): number {
  return probabilities.value === 'ask' ? ALTERNATIVES : 0;
}
