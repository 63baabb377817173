// The field for the server's key: where a request was refused, and in the sidebar to change it.

import type { VNode } from 'preact';
import { apiKey, setApiKey } from '../api/client';
import { loadModels } from '../api/models';

export function KeyForm({ onSaved }: { onSaved: () => void }): VNode {
  const save = (event: SubmitEvent): void => {
    event.preventDefault();
    const input = (event.currentTarget as HTMLFormElement).elements.namedItem('key') as HTMLInputElement;
    setApiKey(input.value.trim());
    void loadModels();
    onSaved();
  };
  return (
    <form class="key" onSubmit={save}>
      <label class="stack">
        <span>Key of this server</span>
        <input name="key" type="password" autoComplete="off" defaultValue={apiKey()} />
      </label>
      <button type="submit" class="button">
        Use it until this tab closes
      </button>
    </form>
  );
}
