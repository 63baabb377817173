// The chat page: model and settings above, the conversation, the field to write in.

import { signal } from '@preact/signals';
import type { VNode } from 'preact';
import { useEffect } from 'preact/hooks';
import { loadModels, models, modelsProblem } from '../api/models';
import { Header } from '../shell/header';
import { Icon } from '../shell/icons';
import { Menu } from '../shell/menu';
import { say } from '../shell/notice';
import { alternativesWanted } from '../shell/preferences';
import { Composer } from './composer';
import { download, feedbackLines, fileName, fromJson, toJson, toMarkdown } from './exchange';
import { send } from './generate';
import { Problem } from './problem';
import { SettingsPanel } from './settings';
import {
  conversations,
  current,
  currentId,
  currentOrNew,
  defaultSettings,
  keepDefaults,
  put,
  running,
  storageProblem,
} from './store';
import { Thread } from './thread';
import { shownPath, type Message, type Settings } from './tree';

/** The model of chats that are not begun yet. */
const nextModel = signal(localStorage.getItem('puna.model') ?? '');
const nextSettings = signal<Settings>(defaultSettings());
const panelOpen = signal(false);
const tokensShown = signal(false);

export function chosenModel(): string {
  const known = models.value.some((model) => model.id === nextModel.value);
  return current.value?.model || (known ? nextModel.value : (models.value[0]?.id ?? ''));
}

export function ChatPage(): VNode {
  const conversation = current.value;
  const busy = conversation ? running.value[conversation.id] : undefined;
  const stop = (): void => busy?.stop();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== 'Escape' || event.defaultPrevented) return;
      if (busy) busy.stop();
      else panelOpen.value = false;
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [busy]);

  const path = conversation ? shownPath(conversation) : [];
  const questions = path.filter((message) => message.role === 'user').map((message) => message.text);
  const onSend = (text: string): void => {
    const begun = conversation ?? { ...currentOrNew(chosenModel()), settings: nextSettings.value };
    const model = begun.model || chosenModel();
    send({ ...begun, model }, path.at(-1)?.id ?? '', text, alternativesWanted());
  };
  const changeSettings = (settings: Settings): void => {
    nextSettings.value = settings;
    keepDefaults(settings);
    if (current.value) put({ ...current.value, settings });
  };

  return (
    <>
      <Header title={conversation?.title || 'New chat'}>
        <ModelPicker />
        <button
          type="button"
          class="quiet wide-only"
          aria-label="Show token probabilities"
          title="Token probabilities"
          aria-pressed={tokensShown.value}
          onClick={() => (tokensShown.value = !tokensShown.value)}
        >
          <Icon name="chance" />
        </button>
        <button
          type="button"
          class="quiet"
          aria-label="Settings"
          title="Settings"
          aria-expanded={panelOpen.value}
          onClick={() => (panelOpen.value = !panelOpen.value)}
        >
          <Icon name="sliders" />
        </button>
        <ChatMenu />
      </Header>
      <div class="work">
        <main class="chat" id="main">
          {storageProblem.value && (
            <p class="banner" role="status">
              {storageProblem.value}
            </p>
          )}
          {modelsProblem.value && (
            <div class="column">
              <Problem problem={modelsProblem.value} onRetry={() => void loadModels()} />
            </div>
          )}
          {conversation ? (
            <Thread conversation={conversation} busy={Boolean(busy)} showTokens={tokensShown.value} />
          ) : (
            <Welcome />
          )}
          <Composer
            conversation={currentId.value}
            history={questions}
            running={Boolean(busy)}
            context={contextUse(path)}
            onSend={onSend}
            onStop={stop}
          />
        </main>
        {panelOpen.value && (
          <SettingsPanel
            settings={conversation?.settings ?? nextSettings.value}
            onChange={changeSettings}
            onClose={() => (panelOpen.value = false)}
          />
        )}
      </div>
    </>
  );
}

/** How much of the model's context the conversation fills, as far as the server told. */
function contextUse(path: Message[]): string {
  const stats = path.findLast((message) => message.stats)?.stats;
  const size = models.value.find((model) => model.id === chosenModel())?.context;
  if (!stats?.promptTokens || !size) return '';
  const used = stats.promptTokens + stats.answerTokens;
  return `${used.toLocaleString('en')} of ${size.toLocaleString('en')} tokens of context used`;
}

function Welcome(): VNode {
  return (
    <div class="thread welcome">
      <div class="column">
        <h2>What would you like to ask?</h2>
        <p>Your messages go to this server and nowhere else. Conversations stay in this browser.</p>
      </div>
    </div>
  );
}

function ModelPicker(): VNode {
  const pick = (id: string): void => {
    nextModel.value = id;
    localStorage.setItem('puna.model', id);
    if (current.value) put({ ...current.value, model: id });
  };
  const bases = models.value.filter((model) => !models.value.some((other) => other.id === model.parent));
  const chosen = chosenModel();
  const unknown = chosen !== '' && !models.value.some((model) => model.id === chosen);
  return (
    <select
      class="picker"
      aria-label="Model"
      value={chosen}
      onChange={(event) => pick(event.currentTarget.value)}
    >
      {unknown && <option value={chosen}>{chosen} (not on this server)</option>}
      {models.value.length === 0 && !unknown && <option value="">no model</option>}
      {bases.map((base) => (
        <>
          <option key={base.id} value={base.id}>
            {base.id}
          </option>
          {models.value
            .filter((model) => model.parent === base.id)
            .map((model) => (
              <option key={model.id} value={model.id}>
                {base.id} + {model.id}
              </option>
            ))}
        </>
      ))}
    </select>
  );
}

function ChatMenu(): VNode {
  const conversation = current.value;
  const save = (name: string, text: string, type: string) => (): void => download(name, text, type);
  const ratings = (): void => {
    const lines = feedbackLines(conversations.value);
    if (lines.length === 0) say('No answer has been rated yet.');
    else
      download(
        'ratings.jsonl',
        `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`,
        'application/jsonl',
      );
  };
  const items = [
    ...(conversation
      ? [
          {
            label: 'Export Markdown',
            act: () => save(fileName(conversation, 'md'), toMarkdown(conversation), 'text/markdown')(),
          },
          {
            label: 'Export JSON',
            act: () => save(fileName(conversation, 'json'), toJson([conversation]), 'application/json')(),
          },
        ]
      : []),
    {
      label: 'Export all chats',
      act: () => save('puna-chats.json', toJson(conversations.value), 'application/json')(),
    },
    { label: 'Import JSON', act: importFile },
    { label: 'Export ratings', act: ratings },
  ];
  return <Menu label="More" items={items} />;
}

function importFile(): void {
  const input = document.createElement('input');
  input.type = 'file';
  input.accept = '.json,application/json';
  input.onchange = async () => {
    const file = input.files?.[0];
    if (!file) return;
    try {
      const read = fromJson(await file.text());
      read.forEach(put);
      if (read[0]) currentId.value = read[0].id;
      say(read.length === 1 ? 'One chat was imported.' : `${read.length} chats were imported.`);
    } catch (error) {
      say(`${file.name}: ${(error as Error).message}`);
    }
  };
  input.click();
}
