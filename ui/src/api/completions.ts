// POST /v1/chat/completions, streamed: OpenAI's protocol, with the sampling fields that puna adds.

import { ApiError, errorFrom, request } from './client';
import { eventData } from './lines';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** What is asked for, besides the messages; what is missing is the server's choice. */
export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  max_tokens?: number;
  seed?: number;
  repetition_penalty?: number;
  stop?: string[];
}

export interface ChatRequest {
  model: string;
  messages: ChatMessage[];
  sampling: Sampling;
  /** Alternatives wanted for each token; 0 asks for no probabilities at all. */
  alternatives: number;
}

/** A token of an answer: its text, its log-probability, and the likeliest tokens of its place. */
export interface TokenChoice {
  text: string;
  logprob: number;
  top: [text: string, logprob: number][];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
}

/** What one event adds to the answer. */
export interface Delta {
  text: string;
  reasoning: string;
  tokens: TokenChoice[];
  finish?: string;
  usage?: Usage;
}

/** Streams an answer. Ends only after the server's own end mark; else it throws. */
export async function* streamChat(ask: ChatRequest, signal: AbortSignal): AsyncGenerator<Delta> {
  const body = JSON.stringify({
    model: ask.model,
    messages: ask.messages,
    stream: true,
    stream_options: { include_usage: true },
    ...ask.sampling,
    ...(ask.alternatives > 0 ? { logprobs: true, top_logprobs: ask.alternatives } : {}),
  });
  const response = await request('v1/chat/completions', { method: 'POST', body, signal });
  if (!response.body) throw new ApiError(0, 'an answer without a body');
  for await (const data of eventData(response.body)) {
    if (data === '[DONE]') return;
    yield parseDelta(JSON.parse(data));
  }
  throw new ApiError(0, 'the stream ended before its end mark');
}

/** Reads a chunk. Throws where the server sends an error in the stream. */
export function parseDelta(chunk: unknown): Delta {
  const fields = chunk as {
    error?: unknown;
    choices?: {
      delta?: { content?: string; reasoning_content?: string };
      finish_reason?: string;
      logprobs?: unknown;
    }[];
    usage?: Usage;
  };
  if (fields.error) throw errorFrom(chunk, 500);
  const choice = fields.choices?.[0];
  const delta: Delta = {
    text: choice?.delta?.content ?? '',
    reasoning: choice?.delta?.reasoning_content ?? '',
    tokens: parseTokens(choice?.logprobs),
  };
  if (choice?.finish_reason) delta.finish = choice.finish_reason;
  if (fields.usage) delta.usage = fields.usage;
  return delta;
}

interface RawToken {
  token: string;
  logprob: number;
  top_logprobs?: RawToken[];
}

function parseTokens(logprobs: unknown): TokenChoice[] {
  const content = (logprobs as { content?: RawToken[] } | undefined)?.content ?? [];
  return content.map((raw) => ({
    text: raw.token,
    logprob: raw.logprob,
    top: (raw.top_logprobs ?? []).map((other) => [other.token, other.logprob]),
  }));
}
