import { constants } from 'node:os';
import { WAIT, type Mailbox, type Native } from '../native.ts';

/** How the program ended. */
export type Outcome =
  | { readonly kind: 'exited'; readonly status: number }
  | { readonly kind: 'signaled'; readonly signal: number };

const { signals } = constants;
/** Sent by a person or a program to us, these are meant for the program. */
const FORWARDED = [
  signals.SIGHUP,
  signals.SIGINT,
  signals.SIGQUIT,
  signals.SIGTERM,
  signals.SIGUSR1,
  signals.SIGUSR2,
  signals.SIGALRM,
  signals.SIGWINCH,
  signals.SIGCONT,
];
/** The terminal's stop signals reach the program too; we stop when it has stopped. */
const WAITED_FOR = [signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU];

/**
 * Makes the supervisor look like the program to whoever started it: signals go through, it stops when the program stops
 * and ends as the program ended.
 */
export class JobControl {
  readonly #native: Native;
  readonly #box: Mailbox;
  readonly #pid: number;

  constructor(native: Native, box: Mailbox, pid: number) {
    this.#native = native;
    this.#box = box;
    this.#pid = pid;
    native.signals([...FORWARDED, ...WAITED_FOR, signals.SIGCHLD]);
  }

  /** A signal has come. `code` is si_code, `sender` si_pid. */
  signal(signal: number, code: number, sender: number): void {
    if (signal === signals.SIGCHLD) return;
    // What the kernel sends (a terminal's keys, its size, its hangup) goes to the whole process group, the program's too;
    // and what the program sends to its group needs not come back to it.
    const byPerson = code <= 0 && sender !== this.#pid;
    if (byPerson && FORWARDED.includes(signal)) this.#send(signal);
  }

  /** Looks at what became of the program and of orphans: its outcome when it has ended. */
  children(): Outcome | null {
    for (;;) {
      const kind = this.#native.wait(this.#pid);
      const value = this.#box.out[0]!;
      if (kind === WAIT.EXITED) return { kind: 'exited', status: value };
      if (kind === WAIT.SIGNALED) return { kind: 'signaled', signal: value };
      if (kind === WAIT.NONE) return null;
      // Who continues us sends SIGCONT, which is passed on. A shell sends it to the whole group; twice does no harm.
      if (kind === WAIT.STOPPED) this.#native.stopBy(value);
    }
  }

  #send(signal: number): void {
    try {
      process.kill(this.#pid, signal);
    } catch {
      // It has just ended.
    }
  }
}

/** Children that are not the program: its orphans, whose parent we become. Their status is nobody's. */
export function reapOrphans(native: Native, box: Mailbox, program: number): Outcome | null {
  let outcome: Outcome | null = null;
  for (;;) {
    const kind = native.wait(-1);
    if (kind === WAIT.NONE) return outcome;
    if (box.out[1] !== program) continue;
    const value = box.out[0]!;
    outcome = kind === WAIT.EXITED ? { kind: 'exited', status: value } : { kind: 'signaled', signal: value };
  }
}
