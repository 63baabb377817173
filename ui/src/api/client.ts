// Requests to the server that this page came from, and what their failures mean to the reader.
//
// Addresses are relative to the page, so that it works behind a proxy's path, and nothing is ever
// asked of another origin. The key lives in sessionStorage: it ends with the tab.

import { signal } from '@preact/signals';

const KEY = 'puna.key';

/** Whether a key was given in this tab. */
export const hasKey = signal(sessionStorage.getItem(KEY) !== null);

export function apiKey(): string {
  return sessionStorage.getItem(KEY) ?? '';
}

export function setApiKey(key: string): void {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  hasKey.value = key !== '';
}

/** A request that failed: by the network (`status` 0) or by the server's word. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = '',
    /** Seconds to wait, where the server says so. */
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

export function apiUrl(path: string): string {
  return new URL(path, document.baseURI).href;
}

/** Sends a request; resolves only on success. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = apiKey();
  if (key) headers.set('Authorization', `Bearer ${key}`);
  if (init.body) headers.set('Content-Type', 'application/json');
  let response: Response;
  try {
    response = await fetch(apiUrl(path), { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, 'no answer from the server');
  }
  if (response.ok) return response;
  throw await failure(response);
}

async function failure(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  return errorFrom(parsed, response.status, text, retryAfter(response.headers.get('Retry-After')));
}

/** Reads OpenAI's error object, `{"error": {"message", "code", "type"}}`, or plain text. */
export function errorFrom(body: unknown, status: number, text = '', wait?: number): ApiError {
  const inner = (body as { error?: unknown } | undefined)?.error;
  if (typeof inner === 'string') return new ApiError(status, inner, '', wait);
  const fields = (inner ?? {}) as { message?: unknown; code?: unknown; type?: unknown };
  const plain = text.length < 300 && !text.trimStart().startsWith('<') ? text.trim() : '';
  const message = typeof fields.message === 'string' ? fields.message : plain || `status ${status}`;
  const code = [fields.code, fields.type].find((value) => typeof value === 'string') as string | undefined;
  return new ApiError(status, message, code ?? '', wait);
}

/** Seconds from a Retry-After header: a number, or a date. */
export function retryAfter(header: string | null, now = Date.now()): number | undefined {
  if (!header) return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - now) / 1000));
}

/** What the reader can do about an error. */
export type Remedy = 'retry' | 'key' | 'wait' | 'settings' | 'model' | 'new-chat';

export interface Explanation {
  title: string;
  detail: string;
  remedy: Remedy;
  /** Seconds until trying again makes sense. */
  wait?: number;
}

/** Where something went wrong: what to do depends on it. */
export type Place = 'chat' | 'plan' | 'runs';

const ABSENT: Record<Place, string> = {
  chat: 'Choose another model above.',
  plan: 'This server plans no training runs; `puna plan` in a terminal does.',
  runs: 'This server shows no training runs.',
};
const REFUSED: Record<Place, [title: string, advice: string]> = {
  chat: ['The server refused the request', 'Check the settings of this chat.'],
  plan: ['This cannot be planned', ''],
  runs: ['The server refused the request', ''],
};

/** Says what went wrong and what to do. */
export function explain(error: unknown, place: Place = 'chat'): Explanation {
  if (!(error instanceof ApiError)) {
    return {
      title: 'The answer broke off',
      detail: String((error as Error)?.message ?? error),
      remedy: 'retry',
    };
  }
  const detail = sentence(error.message);
  if (error.status === 0) {
    const advice = 'Check that `puna serve` is still running and reachable, then try again.';
    return { title: 'The server did not answer', detail: advice, remedy: 'retry' };
  }
  if (error.status === 401) {
    return {
      title: 'The server wants a key',
      detail: `${detail} Enter the key it was started with; it is kept until this tab closes.`,
      remedy: 'key',
    };
  }
  if (error.status === 403) {
    return { title: 'The server does not allow this', detail, remedy: 'retry' };
  }
  if (error.status === 429 || error.status === 503) {
    const wait = error.retryAfter ?? 5;
    return {
      title: 'The server is busy',
      detail: `${detail} It has more requests than it takes at once.`,
      remedy: 'wait',
      wait,
    };
  }
  if (
    place === 'chat' &&
    /context|too long|max_tokens|maximum.*length/i.test(`${error.code} ${error.message}`)
  ) {
    return {
      title: 'The conversation is too long for this model',
      detail: `${detail} Lower “Max tokens”, edit an earlier message, or start a new chat.`,
      remedy: 'new-chat',
    };
  }
  if (error.status === 404) {
    return { title: 'The server does not have this', detail: `${detail} ${ABSENT[place]}`, remedy: 'model' };
  }
  if (error.status >= 400 && error.status < 500) {
    const [title, advice] = REFUSED[place];
    return { title, detail: `${detail} ${advice}`.trim(), remedy: 'settings' };
  }
  return { title: 'The server failed', detail: `${detail} Its log says more.`, remedy: 'retry' };
}

function sentence(text: string): string {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}
