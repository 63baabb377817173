// The conversations of this browser: in signals while the page is open, in IndexedDB beyond.
//
// Other tabs hear of changes over a BroadcastChannel and read the record again, unless they are
// writing an answer into it themselves.

import { computed, effect, signal } from '@preact/signals';
import { loadAll, loadOne, remove, save } from './database';
import { changeMessage, emptyConversation, type Conversation, type Settings } from './tree';

const DEFAULTS = 'puna.defaults';
const CURRENT = 'puna.current';
const SAVE_DELAY_MS = 300;
/** While an answer grows, each save writes the whole conversation again. */
const SAVE_DELAY_RUNNING_MS = 2000;

export const conversations = signal<Conversation[]>([]);
export const currentId = signal(sessionStorage.getItem(CURRENT) ?? '');
export const loaded = signal(false);
/** Says so where the browser keeps nothing, as in some private windows. */
export const storageProblem = signal('');
/** Ids of the conversations into which an answer is being written, with the way to stop it. */
export const running = signal<Record<string, { message: string; stop: () => void }>>({});

export const current = computed(() => conversations.value.find((one) => one.id === currentId.value));

const channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel('puna');
const pending = new Map<string, number>();

effect(() => sessionStorage.setItem(CURRENT, currentId.value));

export async function openStore(): Promise<void> {
  try {
    const stored = await loadAll();
    conversations.value = stored.map(closeUnfinished).sort((a, b) => b.updated - a.updated);
  } catch (error) {
    noStorage(error);
  }
  loaded.value = true;
  if (channel) channel.onmessage = (event) => void reread(String(event.data));
  addEventListener('pagehide', flush);
  document.addEventListener('visibilitychange', () => document.hidden && flush());
}

/** An answer that was still running when its page closed. */
function closeUnfinished(conversation: Conversation): Conversation {
  const open = Object.values(conversation.messages).filter((one) => one.role === 'assistant' && !one.finish);
  return open.reduce((value, one) => changeMessage(value, one.id, { finish: 'interrupted' }), conversation);
}

async function reread(id: string): Promise<void> {
  if (running.value[id] || pending.has(id)) return;
  const stored = await loadOne(id).catch(() => undefined);
  const others = conversations.value.filter((one) => one.id !== id);
  conversations.value = (stored ? [stored, ...others] : others).sort((a, b) => b.updated - a.updated);
}

function noStorage(error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  storageProblem.value = `This browser keeps no conversations (${reason}): export what you need before closing.`;
}

/** Puts a conversation in place of its older value, or first, and saves it soon. */
export function put(conversation: Conversation): void {
  const list = conversations.value;
  const at = list.findIndex((one) => one.id === conversation.id);
  conversations.value = at < 0 ? [conversation, ...list] : list.with(at, conversation);
  const { id } = conversation;
  if (!pending.has(id))
    pending.set(
      id,
      window.setTimeout(() => void saveNow(id), running.value[id] ? SAVE_DELAY_RUNNING_MS : SAVE_DELAY_MS),
    );
}

/** Moves a conversation to the head of the list. */
export function touch(id: string): void {
  const list = conversations.value;
  const one = list.find((each) => each.id === id);
  if (one && list[0] !== one) conversations.value = [one, ...list.filter((each) => each !== one)];
}

export async function saveNow(id: string): Promise<void> {
  window.clearTimeout(pending.get(id));
  pending.delete(id);
  const conversation = conversations.value.find((one) => one.id === id);
  if (!conversation) return;
  try {
    await save(conversation);
    channel?.postMessage(id);
  } catch (error) {
    noStorage(error);
  }
}

function flush(): void {
  for (const id of [...pending.keys()]) void saveNow(id);
}

export function byId(id: string): Conversation | undefined {
  return conversations.value.find((one) => one.id === id);
}

/** The conversation on the screen, begun if there is none. */
export function currentOrNew(model: string): Conversation {
  if (current.value) return current.value;
  const begun = emptyConversation(model, defaultSettings());
  currentId.value = begun.id;
  return begun;
}

/** Takes a conversation out; the answer puts it back. */
export function take(id: string): () => void {
  const list = conversations.value;
  const one = byId(id);
  running.value[id]?.stop();
  conversations.value = list.filter((each) => each.id !== id);
  void remove(id).then(() => channel?.postMessage(id), noStorage);
  return () => {
    if (!one) return;
    put(closeUnfinished(one));
    conversations.value = [...conversations.value].sort((a, b) => b.updated - a.updated);
  };
}

/** Settings that a new chat begins with: those last used. */
export function defaultSettings(): Settings {
  try {
    const stored = JSON.parse(localStorage.getItem(DEFAULTS) ?? '{}') as Partial<Settings>;
    return { system: stored.system ?? '', sampling: stored.sampling ?? {} };
  } catch {
    return { system: '', sampling: {} };
  }
}

export function keepDefaults(settings: Settings): void {
  localStorage.setItem(DEFAULTS, JSON.stringify(settings));
}
