// What a screen reader hears of a streaming answer: whole sentences, as they are finished. A live
// region around the text itself would be read again with every token.

/** The part of a text that is ready to be said after `said` characters: up to the last sentence end. */
export function sentencesAfter(text: string, said: number, done: boolean): string {
  const rest = text.slice(said);
  if (done) return rest;
  const end = Math.max(...['. ', '! ', '? ', '.\n', ':\n', '\n\n'].map((mark) => rest.lastIndexOf(mark)));
  return end < 0 ? '' : rest.slice(0, end + 1);
}
