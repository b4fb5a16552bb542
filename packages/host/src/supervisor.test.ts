import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually, Harness } from './testing/harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await Harness.create();
});
afterAll(() => harness.remove());

function alive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

const state = (pid: number): string => /\) (\w) /.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))![1]!;

describe('the program', () => {
  test('gets standard input, its own signals and limits, and no descriptor of the supervisor', () => {
    const { lines, status } = harness.run(['inherited'], { input: 'one\ntwo\n' });
    expect(lines).toEqual(harness.run(['inherited'], { input: 'one\ntwo\n', unsupervised: true }).lines);
    expect(lines.slice(0, 2)).toEqual(['ignored 0', 'blocked 0']);
    expect(lines.slice(-2)).toEqual(['one', 'two']);
    expect(status).toBe(0);
  });

  test('ends the supervisor with its own status', () => {
    expect(harness.run(['-c', 'exit 7'], { program: '/bin/sh' }).status).toBe(7);
  });

  test.each([
    [11, 'SIGSEGV'],
    [15, 'SIGTERM'],
    [9, 'SIGKILL'],
  ])('ends the supervisor with the signal %d that ended it', (number, signal) => {
    expect(harness.run(['crash', String(number)]).signal).toBe(signal);
  });

  test('is waited for with all that it started', () => {
    const { lines, status } = harness.run(['background']);
    expect(lines.at(-1)).toBe('background works');
    expect(status).toBe(5);
  });

  test('is found along PATH, and a script without #! is the shell’s', () => {
    expect(harness.run(['hello'], { program: 'echo' }).lines).toEqual(['hello']);
  });
});

test('the supervisor may have a thread of its own; the main thread goes on meanwhile', () => {
  const { lines, status } = harness.run(['background'], { env: { WORKER: '1' } });
  expect(lines).toContain('background works');
  expect(lines).toContain('main thread 1');
  expect(status).toBe(5);
});

describe('a program that cannot be started', () => {
  test('is not found: 127, as env(1)', () => {
    const { status, stderr } = harness.run([], {
      program: 'no-such-program',
      env: { PATH: '/usr/bin:/bin' },
    });
    expect(stderr).toBe('viommu: no-such-program: command not found (PATH was searched)\n');
    expect(status).toBe(127);
    expect(harness.run([], { program: '/no/such/program' }).stderr).toBe(
      'viommu: /no/such/program: no such file\n',
    );
  });

  test('names an interpreter that is not there', () => {
    const script = join(harness.directory, 'script');
    writeFileSync(script, '#!/no/such/interpreter\n', { mode: 0o755 });
    const { status, stderr } = harness.run([], { program: script });
    expect(stderr).toBe(
      `viommu: ${script}: the interpreter that it names is not there: after #! in a script, else the dynamic loader\n`,
    );
    expect(status).toBe(127);
  });

  test('is not executable: 126', () => {
    const { status, stderr } = harness.run([], { program: '/etc/passwd' });
    expect(stderr).toBe('viommu: /etc/passwd: permission denied; is it an executable file?\n');
    expect(status).toBe(126);
  });

  test('has no /proc: the mount that is missing is named', () => {
    const as = ['unshare', '--user', '--map-root-user', '--mount'];
    const hide = ['sh', '-c', 'mount -t tmpfs none /proc && exec "$@"', 'sh'];
    const { status, stderr } = harness.run(['ordinary'], { as: [...as, ...hide] });
    expect(stderr).toMatch(/^viommu: \/proc is not mounted here.*mount -t proc proc \/proc\n$/);
    expect(status).toBe(125);
  });

  test('is behind another supervisor already: what is in the way is named', () => {
    const args = [`${harness.directory}/main.mjs`, '/bin/true'];
    const { status, stderr } = harness.run(args, { program: process.execPath });
    expect(stderr).toMatch(/^viommu: the system refuses a seccomp filter.*EBUSY.*under another viommu/);
    expect(status).toBe(125);
  });
});

describe('signals', () => {
  test('sent to the supervisor reach the program', async () => {
    const running = harness.start(['signals']);
    await running.line('ready');
    for (const [signal, number] of [
      ['SIGHUP', 1],
      ['SIGTERM', 15],
      ['SIGUSR1', 10],
      ['SIGUSR2', 12],
      ['SIGINT', 2],
      ['SIGWINCH', 28],
    ] as const) {
      process.kill(running.pid, signal);
      expect(await eventually(() => running.has(`signal ${number}`))).toBe(true);
    }
    expect(await running.ended).toEqual({ status: 42, signal: null });
  });

  test('that stop the program stop the supervisor, and continuing it continues both', async () => {
    const running = harness.start(['sleep']);
    const pid = Number(await running.line('pid'));
    process.kill(pid, 'SIGSTOP');
    expect(await eventually(() => state(running.pid) === 'T')).toBe(true);
    process.kill(running.pid, 'SIGCONT');
    expect(await eventually(() => state(pid) !== 'T' && state(running.pid) !== 'T')).toBe(true);
    process.kill(running.pid, 'SIGTERM');
    expect(await running.ended).toEqual({ status: null, signal: 'SIGTERM' });
  });
});

describe('killing', () => {
  test('the program leaves nothing behind', async () => {
    const running = harness.start(['sleep']);
    process.kill(Number(await running.line('pid')), 'SIGKILL');
    expect(await running.ended).toEqual({ status: null, signal: 'SIGKILL' });
  });

  test('the supervisor leaves no program hanging', async () => {
    const running = harness.start(['sleep']);
    const pid = Number(await running.line('pid'));
    process.kill(running.pid, 'SIGKILL');
    await running.ended;
    expect(await eventually(() => !alive(pid))).toBe(true);
  });

  test('the supervisor leaves no child of the program hanging: its calls fail', async () => {
    const running = harness.start(['orphan']);
    const pid = Number(await running.line('pid'));
    process.kill(running.pid, 'SIGKILL');
    expect(await running.line('orphan')).toBe('ENOSYS');
    expect(await eventually(() => !alive(pid))).toBe(true);
  });
});
