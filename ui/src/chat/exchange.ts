// Conversations as files: Markdown to read, JSON to keep and to bring back, JSON lines of ratings.

import { children, newId, promptFor, shownPath, type Conversation, type Message } from './tree';
import type { ChatMessage, Sampling, TokenChoice } from '../api/completions';

const FORMAT = 'puna.conversations';

/** The branch that is shown, as Markdown. */
export function toMarkdown(conversation: Conversation): string {
  const parts = [`# ${conversation.title || 'Untitled'}`];
  const system = conversation.settings.system.trim();
  if (system) parts.push(`## System\n\n${system}`);
  for (const message of shownPath(conversation)) {
    const name = message.role === 'user' ? 'You' : message.model || 'Assistant';
    parts.push(`## ${name}\n\n${message.text}`);
  }
  return `${parts.join('\n\n')}\n`;
}

/** Whole conversations, every branch. */
export function toJson(conversations: Conversation[]): string {
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1)}\n`;
}

/** Reads what `toJson` wrote. Each conversation gets a new id, so nothing is overwritten. */
export function fromJson(text: string): Conversation[] {
  let parsed: { format?: unknown; conversations?: unknown };
  try {
    parsed = JSON.parse(text) as typeof parsed;
  } catch {
    throw new Error('this file is not JSON; import the file that “Export JSON” made');
  }
  if (parsed?.format !== FORMAT || !Array.isArray(parsed.conversations)) {
    throw new Error(`this JSON is no export of this page: it lacks "format": "${FORMAT}"`);
  }
  return parsed.conversations.map(readConversation);
}

function readConversation(raw: unknown, index: number): Conversation {
  const fail = (what: string): never => {
    throw new Error(`conversation ${index + 1} of the file: ${what}`);
  };
  const value = (raw ?? {}) as Partial<Conversation>;
  if (typeof value.messages !== 'object' || value.messages === null) return fail('no messages');
  const messages: Record<string, Message> = {};
  for (const [id, message] of Object.entries(value.messages)) {
    const known =
      message?.id === id && typeof message.text === 'string' && typeof message.parent === 'string';
    if (!known || !['user', 'assistant'].includes(message.role)) return fail(`message ${id} is incomplete`);
    messages[id] = readMessage(message);
  }
  for (const message of Object.values(messages)) {
    if (message.parent && !messages[message.parent])
      return fail(`message ${message.id} hangs below no other`);
  }
  if (hasCycle(messages)) return fail('its messages go in a circle');
  return {
    id: newId(),
    title: String(value.title ?? ''),
    created: Number(value.created) || Date.now(),
    updated: Number(value.updated) || Date.now(),
    model: String(value.model ?? ''),
    settings: {
      system: String(value.settings?.system ?? ''),
      sampling: readSampling(value.settings?.sampling),
    },
    messages,
    chosen: typeof value.chosen === 'object' && value.chosen ? value.chosen : {},
  };
}

/** The fields that this page draws, each only if it is what it should be. */
function readMessage(raw: Message): Message {
  const { id, parent, role, text } = raw;
  const message: Message = { id, parent, role, text, created: Number(raw.created) || 0 };
  if (role === 'assistant') message.finish = typeof raw.finish === 'string' ? raw.finish : 'stop';
  if (typeof raw.reasoning === 'string') message.reasoning = raw.reasoning;
  if (typeof raw.model === 'string') message.model = raw.model;
  if (raw.rating === 'up' || raw.rating === 'down') message.rating = raw.rating;
  if (raw.stats && Object.values(raw.stats).every(Number.isFinite)) message.stats = raw.stats;
  if (Array.isArray(raw.tokens) && raw.tokens.every(isToken)) message.tokens = raw.tokens;
  return message;
}

function isToken(raw: TokenChoice): boolean {
  const pair = ([text, logprob]: [unknown, unknown]): boolean =>
    typeof text === 'string' && typeof logprob === 'number';
  return (
    typeof raw?.text === 'string' &&
    typeof raw.logprob === 'number' &&
    Array.isArray(raw.top) &&
    raw.top.every(pair)
  );
}

function readSampling(raw: unknown): Sampling {
  const entries = Object.entries(raw ?? {}).filter(([key, value]) =>
    key === 'stop'
      ? Array.isArray(value) && value.every((one) => typeof one === 'string')
      : Number.isFinite(value),
  );
  return Object.fromEntries(entries) as Sampling;
}

function hasCycle(messages: Record<string, Message>): boolean {
  const limit = Object.keys(messages).length;
  return Object.values(messages).some((start) => {
    let at: Message | undefined = start;
    for (let step = 0; at; step += 1) {
      if (step > limit) return true;
      at = messages[at.parent];
    }
    return false;
  });
}

/** A rated answer, or two answers of one question of which one was preferred. */
export type FeedbackLine =
  | { model: string; messages: ChatMessage[]; answer: string; rating: 'up' | 'down' }
  | { messages: ChatMessage[]; chosen: string; rejected: string };

/** Every rating; a question with answers rated up and down gives a pair for each two of them. */
export function feedbackLines(conversations: Conversation[]): FeedbackLine[] {
  const out: FeedbackLine[] = [];
  for (const conversation of conversations) {
    for (const question of Object.values(conversation.messages).filter((one) => one.role === 'user')) {
      const rated = children(conversation, question.id).filter((one) => one.rating);
      const messages = promptFor(conversation, question.id);
      for (const { model, text, rating } of rated) {
        if (rating) out.push({ model: model ?? '', messages, answer: text, rating });
      }
      for (const good of rated.filter((one) => one.rating === 'up')) {
        for (const bad of rated.filter((one) => one.rating === 'down')) {
          out.push({ messages, chosen: good.text, rejected: bad.text });
        }
      }
    }
  }
  return out;
}

/** Hands a text to the browser as a download. */
export function download(name: string, text: string, type: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A title as a file name. */
export function fileName(conversation: Conversation, ending: string): string {
  const stem = (conversation.title || 'conversation').toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-');
  return `${stem.replace(/^-|-$/g, '').slice(0, 50) || 'conversation'}.${ending}`;
}
