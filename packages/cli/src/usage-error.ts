/** What a person typed cannot be done: the message says what, where, and what would be right. Exit status 2. */
export class UsageError extends Error {
  override name = 'UsageError';
}
