// A conversation is a tree: editing a question or asking again adds a sibling, nothing is lost.
//
// Values are never changed in place, so a message that did not change keeps its identity and is
// not drawn again. The path shown follows `chosen` from the root; its key for the root is ''.

import type { Explanation } from '../api/client';
import type { ChatMessage, Sampling, TokenChoice } from '../api/completions';

export interface Stats {
  promptTokens: number;
  answerTokens: number;
  /** Seconds from sending to the first text. */
  firstSecs: number;
  tokensPerSec: number;
}

export type Rating = 'up' | 'down';

export interface Message {
  id: string;
  /** '' for a first message. */
  parent: string;
  role: 'user' | 'assistant';
  text: string;
  /** Thinking, where the server sends it apart from the answer. */
  reasoning?: string;
  created: number;
  model?: string;
  stats?: Stats;
  tokens?: TokenChoice[];
  /** Why the answer ended: the server's word, `stopped` or `interrupted`; missing while it runs. */
  finish?: string;
  error?: Explanation;
  rating?: Rating;
}

export interface Settings {
  system: string;
  sampling: Sampling;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  model: string;
  settings: Settings;
  messages: Record<string, Message>;
  /** Parent id to the id of the child that is shown. */
  chosen: Record<string, string>;
}

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return btoa(String.fromCharCode(...bytes))
    .replace(/\+/g, '-')
    .replace(/\//g, '_');
}

export function emptyConversation(model: string, settings: Settings, now = Date.now()): Conversation {
  return { id: newId(), title: '', created: now, updated: now, model, settings, messages: {}, chosen: {} };
}

/** Children of a message, oldest first. */
export function children(conversation: Conversation, parent: string): Message[] {
  return Object.values(conversation.messages).filter((message) => message.parent === parent);
}

function shownChild(conversation: Conversation, parent: string): Message | undefined {
  const chosen = conversation.messages[conversation.chosen[parent] ?? ''];
  return chosen ?? children(conversation, parent).at(-1);
}

/** The messages shown, first to last. */
export function shownPath(conversation: Conversation): Message[] {
  const path: Message[] = [];
  let next = shownChild(conversation, '');
  while (next) {
    path.push(next);
    next = shownChild(conversation, next.id);
  }
  return path;
}

/** The messages from the first to the one named, this one included. */
export function pathTo(conversation: Conversation, id: string): Message[] {
  const path: Message[] = [];
  let message = conversation.messages[id];
  while (message) {
    path.unshift(message);
    message = conversation.messages[message.parent];
  }
  return path;
}

/**
 * The messages that the server sees for an answer. Answers that never came are left out, and the
 * questions around them become one: many chat templates refuse two messages of one role in a row.
 */
export function promptFor(conversation: Conversation, questionId: string): ChatMessage[] {
  const messages: ChatMessage[] = [];
  const system = conversation.settings.system.trim();
  if (system) messages.push({ role: 'system', content: system });
  for (const { role, text } of pathTo(conversation, questionId)) {
    const before = messages.at(-1);
    if (role === 'assistant' && text === '') continue;
    if (role === 'user' && before?.role === 'user') before.content += `\n\n${text}`;
    else messages.push({ role, content: text });
  }
  return messages;
}

/** Adds a message and shows it. */
export function addMessage(conversation: Conversation, message: Message): Conversation {
  return {
    ...conversation,
    updated: message.created,
    messages: { ...conversation.messages, [message.id]: message },
    chosen: { ...conversation.chosen, [message.parent]: message.id },
  };
}

export function changeMessage(
  conversation: Conversation,
  id: string,
  change: Partial<Message>,
): Conversation {
  const before = conversation.messages[id];
  if (!before) return conversation;
  return { ...conversation, messages: { ...conversation.messages, [id]: { ...before, ...change } } };
}

export function choose(conversation: Conversation, message: Message): Conversation {
  return { ...conversation, chosen: { ...conversation.chosen, [message.parent]: message.id } };
}

/** A title from the first question: one line of at most 60 characters, cut at a word. */
export function titleFrom(text: string): string {
  const line = text.trim().split('\n')[0] ?? '';
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  const space = cut.lastIndexOf(' ');
  return `${space > 30 ? cut.slice(0, space) : cut}…`;
}

/** Shorter answers came in one piece, as far as a page can tell. */
const SHORTEST_MS = 100;

/** Tokens per second after the first one, whose wait is the prompt's; 0 where it cannot be told. */
export function tokensPerSec(tokens: number, firstMs: number, lastMs: number): number {
  const spent = lastMs - firstMs;
  return tokens > 1 && spent >= SHORTEST_MS ? ((tokens - 1) * 1000) / spent : 0;
}
