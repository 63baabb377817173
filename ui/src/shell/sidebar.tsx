// Pages, conversations, theme and key. Beside the page on a wide screen, a drawer on a phone.

import { signal } from '@preact/signals';
import type { VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { hasKey } from '../api/client';
import { conversations, currentId, put, running, take } from '../chat/store';
import type { Conversation } from '../chat/tree';
import { Icon, type IconName } from './icons';
import { KeyForm } from './keyform';
import { say } from './notice';
import { theme, type Theme } from './preferences';
import { go, route, type Page } from './route';

export const drawerOpen = signal(false);
const search = signal('');

const PAGES: { page: Page; label: string; icon: IconName }[] = [
  { page: 'chat', label: 'Chat', icon: 'chat' },
  { page: 'plan', label: 'Plan', icon: 'plan' },
  { page: 'runs', label: 'Training', icon: 'runs' },
];

export function newChat(): void {
  currentId.value = '';
  go('chat');
  drawerOpen.value = false;
  requestAnimationFrame(() => document.querySelector<HTMLElement>('.composer textarea')?.focus());
}

/** Title or any message contains all words. */
export function matches(conversation: Conversation, query: string): boolean {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [conversation.title, ...Object.values(conversation.messages).map((one) => one.text)]
    .join('\n')
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

export function Sidebar({ modal }: { modal: boolean }): VNode {
  const side = useRef<HTMLElement>(null);
  const close = (): void => {
    drawerOpen.value = false;
    document.querySelector<HTMLElement>('.drawer-button')?.focus();
  };
  useEffect(() => {
    if (!modal) return;
    side.current?.querySelector<HTMLElement>('a')?.focus();
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== 'Escape') return;
      event.preventDefault();
      close();
    };
    addEventListener('keydown', onKey, true);
    return () => removeEventListener('keydown', onKey, true);
  }, [modal]);
  const found = search.value
    ? conversations.value.filter((one) => matches(one, search.value))
    : conversations.value;
  return (
    <>
      {modal && <div class="shade" onClick={close} />}
      <aside ref={side} class="side" aria-label="Navigation">
        <div class="brand">
          <span>puna</span>
          {modal && (
            <button type="button" class="quiet" aria-label="Close the menu" onClick={close}>
              <Icon name="close" />
            </button>
          )}
        </div>
        <nav aria-label="Pages">
          {PAGES.map(({ page, label, icon }) => (
            <a
              key={page}
              href={`#/${page}`}
              aria-current={route.value.page === page ? 'page' : undefined}
              onClick={() => (drawerOpen.value = false)}
            >
              <Icon name={icon} />
              {label}
            </a>
          ))}
        </nav>
        <div class="chats-head">
          <button type="button" class="button wide" title="New chat (Ctrl+K)" onClick={newChat}>
            <Icon name="plus" />
            New chat
          </button>
          <input
            type="search"
            aria-label="Search chats"
            placeholder="Search chats"
            value={search.value}
            onInput={(event) => (search.value = event.currentTarget.value)}
          />
        </div>
        <ul class="chats" aria-label="Chats">
          {found.map((one) => (
            <ChatItem key={one.id} conversation={one} />
          ))}
          {found.length === 0 && (
            <li class="none">{search.value ? 'No chat has these words.' : 'No chats yet.'}</li>
          )}
        </ul>
        <KeyField />
        <ThemeChoice />
      </aside>
    </>
  );
}

function ChatItem({ conversation }: { conversation: Conversation }): VNode {
  const [renaming, setRenaming] = useState(false);
  const { id } = conversation;
  const title = conversation.title || 'Untitled';
  const open = (): void => {
    currentId.value = id;
    go('chat');
    drawerOpen.value = false;
  };
  const erase = (): void => {
    const back = take(id);
    if (currentId.value === id) currentId.value = '';
    say(`“${title}” was deleted.`, { label: 'Undo', act: back });
  };
  if (renaming)
    return (
      <li>
        <Rename conversation={conversation} onDone={() => setRenaming(false)} />
      </li>
    );
  return (
    <li class={currentId.value === id && route.value.page === 'chat' ? 'on' : ''}>
      <button
        type="button"
        class="title"
        aria-current={currentId.value === id ? 'true' : undefined}
        onClick={open}
        title={title}
      >
        {title}
        {running.value[id] && (
          <span class="pulse">
            <span class="offscreen">, answering</span>
          </span>
        )}
      </button>
      <button
        type="button"
        class="quiet"
        aria-label={`Rename “${title}”`}
        title="Rename"
        onClick={() => setRenaming(true)}
      >
        <Icon name="pencil" />
      </button>
      <button type="button" class="quiet" aria-label={`Delete “${title}”`} title="Delete" onClick={erase}>
        <Icon name="trash" />
      </button>
    </li>
  );
}

function Rename({ conversation, onDone }: { conversation: Conversation; onDone: () => void }): VNode {
  const input = useRef<HTMLInputElement>(null);
  const left = useRef(false);
  useLayoutEffect(() => input.current?.select(), []);
  const end = (keep: boolean): void => {
    if (left.current) return;
    left.current = true;
    const title = input.current?.value.trim();
    if (keep && title) put({ ...conversation, title });
    onDone();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.isComposing) return;
    if (event.key === 'Enter') end(true);
    if (event.key === 'Escape') {
      event.stopPropagation();
      end(false);
    }
  };
  return (
    <input
      ref={input}
      class="rename"
      aria-label="New title"
      defaultValue={conversation.title}
      onKeyDown={onKeyDown}
      onBlur={() => end(true)}
    />
  );
}

function KeyField(): VNode | null {
  const [shown, setShown] = useState(false);
  if (shown) return <KeyForm onSaved={() => setShown(false)} />;
  if (!hasKey.value) return null;
  return (
    <button type="button" class="line" onClick={() => setShown(true)}>
      <Icon name="key" />
      Change the key
    </button>
  );
}

function ThemeChoice(): VNode {
  const choices: { value: Theme; label: string; icon: IconName }[] = [
    { value: 'system', label: 'As the system', icon: 'system' },
    { value: 'light', label: 'Light', icon: 'sun' },
    { value: 'dark', label: 'Dark', icon: 'moon' },
  ];
  return (
    <div class="themes" role="group" aria-label="Theme">
      {choices.map(({ value, label, icon }) => (
        <button
          key={value}
          type="button"
          class="quiet"
          aria-label={label}
          title={label}
          aria-pressed={theme.value === value}
          onClick={() => (theme.value = value)}
        >
          <Icon name={icon} />
        </button>
      ))}
    </div>
  );
}
