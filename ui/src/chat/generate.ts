// Asks for an answer and writes it into the conversation as it comes.

import { ApiError, explain } from '../api/client';
import { streamChat, type Delta, type TokenChoice, type Usage } from '../api/completions';
import { byId, put, running, saveNow, touch } from './store';
import {
  addMessage,
  changeMessage,
  newId,
  promptFor,
  titleFrom,
  tokensPerSec,
  type Conversation,
  type Message,
  type Stats,
} from './tree';

/** Text is shown at most this often: drawing Markdown for every token would cost more than it shows. */
const SHOW_EVERY_MS = 60;
/** Each 500 letters of the answer add a millisecond, as drawing it takes longer. */
const LETTERS_PER_MS = 500;

/** Adds a question below `parent` and asks for its answer. */
export function send(conversation: Conversation, parent: string, text: string, alternatives: number): void {
  const question: Message = { id: newId(), parent, role: 'user', text, created: Date.now() };
  const titled = conversation.title ? conversation : { ...conversation, title: titleFrom(text) };
  put(addMessage(titled, question));
  answer(conversation.id, question.id, alternatives);
}

/** Asks for an answer to a question; an earlier answer stays as its sibling. */
export function answer(conversationId: string, questionId: string, alternatives: number): void {
  const conversation = byId(conversationId);
  if (!conversation || running.value[conversationId]) return;
  const { model } = conversation;
  const message: Message = {
    id: newId(),
    parent: questionId,
    role: 'assistant',
    text: '',
    created: Date.now(),
    model,
  };
  put(addMessage(conversation, message));
  touch(conversationId);
  const controller = new AbortController();
  running.value = {
    ...running.value,
    [conversationId]: { message: message.id, stop: () => controller.abort() },
  };
  void new Answering(conversationId, message.id, controller.signal).run(alternatives).finally(() => {
    const { [conversationId]: _ended, ...others } = running.value;
    running.value = others;
    void saveNow(conversationId);
  });
}

class Answering {
  private text = '';
  private reasoning = '';
  private tokens: TokenChoice[] = [];
  private pieces = 0;
  private usage: Usage | undefined;
  private finish = '';
  private readonly sent = performance.now();
  private first = 0;
  private last = 0;
  private timer = 0;

  constructor(
    private readonly conversationId: string,
    private readonly messageId: string,
    private readonly signal: AbortSignal,
  ) {}

  async run(alternatives: number): Promise<void> {
    const conversation = byId(this.conversationId);
    if (!conversation) return;
    const question = conversation.messages[this.messageId]?.parent ?? '';
    const { model, settings } = conversation;
    const ask = {
      model,
      messages: promptFor(conversation, question),
      sampling: settings.sampling,
      alternatives,
    };
    try {
      for await (const delta of streamChat(ask, this.signal)) this.take(delta);
      this.show({ finish: this.finish || 'stop' });
    } catch (error) {
      if (this.signal.aborted) this.show({ finish: 'stopped' });
      else this.show({ finish: 'interrupted', error: this.explain(error) });
    }
  }

  private explain(error: unknown): ReturnType<typeof explain> {
    const broken = this.text && (!(error instanceof ApiError) || error.status === 0);
    if (!broken) return explain(error);
    return {
      title: 'The answer broke off',
      detail: 'The connection ended before the answer did. What came is kept.',
      remedy: 'retry',
    };
  }

  private take(delta: Delta): void {
    this.text += delta.text;
    this.reasoning += delta.reasoning;
    this.tokens.push(...delta.tokens);
    if (delta.finish) this.finish = delta.finish;
    if (delta.usage) this.usage = delta.usage;
    if (delta.text || delta.reasoning) {
      this.pieces += 1;
      this.last = performance.now();
      this.first ||= this.last;
    }
    this.timer ||= window.setTimeout(() => this.show({}), SHOW_EVERY_MS + this.text.length / LETTERS_PER_MS);
  }

  private stats(): Stats {
    const answerTokens = this.usage?.completion_tokens ?? (this.tokens.length || this.pieces);
    return {
      promptTokens: this.usage?.prompt_tokens ?? 0,
      answerTokens,
      firstSecs: this.first ? (this.first - this.sent) / 1000 : 0,
      tokensPerSec: tokensPerSec(answerTokens, this.first, this.last),
    };
  }

  private show(more: Partial<Message>): void {
    window.clearTimeout(this.timer);
    this.timer = 0;
    const conversation = byId(this.conversationId);
    if (!conversation) return;
    const change: Partial<Message> = { ...more, text: this.text };
    if (this.reasoning) change.reasoning = this.reasoning;
    if (this.first) change.stats = this.stats();
    if (more.finish && this.tokens.length) change.tokens = this.tokens;
    put(changeMessage(conversation, this.messageId, change));
  }
}
