// The system prompt and the sampling of one chat. An empty field leaves the choice to the server.

import type { VNode } from 'preact';
import type { Sampling } from '../api/completions';
import { Icon } from '../shell/icons';
import { probabilities } from '../shell/preferences';
import type { Settings } from './tree';

interface NumberField {
  key: Exclude<keyof Sampling, 'stop'>;
  label: string;
  hint: string;
  min: number;
  max?: number;
  step: number | 'any';
}

const FIELDS: NumberField[] = [
  {
    key: 'temperature',
    label: 'Temperature',
    hint: '0 always takes the likeliest token',
    min: 0,
    max: 2,
    step: 'any',
  },
  {
    key: 'top_p',
    label: 'Top p',
    hint: 'likeliest tokens that together have this probability',
    min: 0,
    max: 1,
    step: 'any',
  },
  { key: 'top_k', label: 'Top k', hint: 'only this many of the likeliest', min: 1, step: 1 },
  {
    key: 'min_p',
    label: 'Min p',
    hint: 'at least this share of the likeliest token’s probability',
    min: 0,
    max: 1,
    step: 'any',
  },
  {
    key: 'repetition_penalty',
    label: 'Repetition penalty',
    hint: '1 is none',
    min: 0.01,
    max: 10,
    step: 'any',
  },
  { key: 'max_tokens', label: 'Max tokens', hint: 'length of an answer', min: 1, step: 1 },
  { key: 'seed', label: 'Seed', hint: 'the same seed gives the same answer', min: 0, step: 1 },
];

export function SettingsPanel({
  settings,
  onChange,
  onClose,
}: {
  settings: Settings;
  onChange: (settings: Settings) => void;
  onClose: () => void;
}): VNode {
  const setSampling = (sampling: Sampling): void => onChange({ ...settings, sampling });
  const setNumber = (key: NumberField['key'], input: HTMLInputElement): void => {
    const { [key]: _old, ...others } = settings.sampling;
    if (input.value === '') setSampling(others);
    else if (input.checkValidity()) setSampling({ ...others, [key]: Number(input.value) });
  };
  const setStop = (text: string): void => {
    const { stop: _old, ...others } = settings.sampling;
    const stop = text.split('\n').filter((line) => line !== '');
    setSampling(stop.length ? { ...others, stop } : others);
  };
  return (
    <aside class="panel" aria-label="Settings of this chat">
      <header>
        <h2>Settings</h2>
        <button type="button" class="quiet" aria-label="Close settings" onClick={onClose}>
          <Icon name="close" />
        </button>
      </header>
      <label class="stack">
        <span>System prompt</span>
        <textarea
          rows={4}
          value={settings.system}
          placeholder="How the model should answer"
          onInput={(event) => onChange({ ...settings, system: event.currentTarget.value })}
        />
      </label>
      <div class="grid">
        {FIELDS.map(({ key, label, hint, ...limits }) => (
          <label key={key} class="stack" title={hint}>
            <span>{label}</span>
            <input
              type="number"
              inputMode="decimal"
              placeholder="default"
              {...limits}
              value={settings.sampling[key] ?? ''}
              aria-description={hint}
              onChange={(event) => setNumber(key, event.currentTarget)}
            />
          </label>
        ))}
      </div>
      <label class="stack">
        <span>Stop at (one text a line)</span>
        <textarea
          rows={2}
          value={(settings.sampling.stop ?? []).join('\n')}
          onChange={(event) => setStop(event.currentTarget.value)}
        />
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={probabilities.value === 'ask'}
          onChange={(event) => (probabilities.value = event.currentTarget.checked ? 'ask' : 'skip')}
        />
        <span>Ask for token probabilities</span>
      </label>
      <button type="button" class="button" onClick={() => onChange({ system: '', sampling: {} })}>
        Back to the server’s choice
      </button>
      <p class="hint">An empty field leaves the choice to the server. New chats begin with these settings.</p>
    </aside>
  );
}
