// The page is chosen by the address's fragment (`#/plan?flops=1e21`): any file server can serve it.

import { signal } from '@preact/signals';

export type Page = 'chat' | 'plan' | 'runs';

export interface Route {
  page: Page;
  query: URLSearchParams;
}

function read(): Route {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const page: Page = path === 'plan' || path === 'runs' ? path : 'chat';
  return { page, query: new URLSearchParams(query) };
}

export const route = signal(read());

export function followAddress(): void {
  addEventListener('hashchange', () => (route.value = read()));
}

export function go(page: Page): void {
  if (route.value.page !== page) location.hash = `#/${page}`;
}

/** Writes the query of the page shown into the address, without a step of history. */
export function setQuery(query: URLSearchParams): void {
  const text = query.toString();
  history.replaceState(null, '', `#/${route.value.page}${text ? `?${text}` : ''}`);
}
