// Conversations in IndexedDB, one record each. localStorage would hold 5 MB and block while it
// writes; answers with their probabilities outgrow that.

import type { Conversation } from './tree';

const STORE = 'conversations';

let opened: Promise<IDBDatabase> | undefined;

function open(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open('puna', 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, { keyPath: 'id' });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opened;
}

async function run<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const asked = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

export function loadAll(): Promise<Conversation[]> {
  return run('readonly', (store) => store.getAll() as IDBRequest<Conversation[]>);
}

export function loadOne(id: string): Promise<Conversation | undefined> {
  return run('readonly', (store) => store.get(id) as IDBRequest<Conversation | undefined>);
}

export async function save(conversation: Conversation): Promise<void> {
  await run('readwrite', (store) => store.put(conversation));
}

export async function remove(id: string): Promise<void> {
  await run('readwrite', (store) => store.delete(id));
}
