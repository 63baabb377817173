// Thumbs up or down: kept with the answer, and sent to POST /v1/feedback where the server takes it.

import { ApiError, request } from '../api/client';
import { put } from './store';
import { promptFor, type Conversation, type Message, type Rating } from './tree';
import { say } from '../shell/notice';

export async function rate(conversation: Conversation, message: Message, rating: Rating): Promise<void> {
  const withdrawn = message.rating === rating;
  const { rating: _before, ...rest } = message;
  const rated: Message = withdrawn ? rest : { ...rest, rating };
  put({ ...conversation, messages: { ...conversation.messages, [message.id]: rated } });
  if (withdrawn) return;
  const body = JSON.stringify({
    conversation: conversation.id,
    model: message.model ?? '',
    messages: promptFor(conversation, message.parent),
    answer: message.text,
    rating,
  });
  try {
    await request('v1/feedback', { method: 'POST', body });
    say('Thank you: the rating is stored on the server.');
  } catch (error) {
    const missing = error instanceof ApiError && [404, 405, 501].includes(error.status);
    const why = missing
      ? 'The server stores no ratings'
      : `The server did not take the rating (${(error as Error).message})`;
    say(`${why}; it is kept in this browser. “Export ratings” in the menu gives the file.`);
  }
}
