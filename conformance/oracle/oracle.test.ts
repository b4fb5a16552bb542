import { describe, expect, test } from 'vitest';
import { Dice } from '../model/script/dice.ts';
import { play } from '../transcripts/play.ts';
import { environment } from './environment.ts';
import { fieldScripts } from './fields.ts';
import { KINDS, scriptsOf } from './generate.ts';
import { mutate, units } from './mutate.ts';
import { randomScript } from './random.ts';
import { TEST_REQUESTS } from './requests-test.ts';
import { UAPI_REQUESTS } from './requests-uapi.ts';

const REQUESTS = [...UAPI_REQUESTS, ...TEST_REQUESTS];
/** Refused where memory of the process is mapped, and where there are objects. */
const REFUSED = new Set(['change-process', 'option-rlimit']);
const failures = (lines: readonly string[]): string[] => lines.filter((line) => line.includes('rc=-1'));

describe('the requests whose fields are changed', () => {
  test('find what they need', () => {
    expect(failures(play(environment().join('\n')))).toEqual([]);
  });

  const working = REQUESTS.filter(({ name }) => !REFUSED.has(name));
  test.each(working.map((request) => [request.name, request] as const))('%s works', (_name, request) => {
    const asked = request.arg.line(0, request.command);
    const lines = [...environment(), ...(request.before ?? []), asked];
    expect(play(lines.join('\n')).at(-1)).toMatch(/^I \S+ rc=\d+ errno=0 /);
  });

  test('are all there: every request of the uAPI, every operation of the selftest', () => {
    const numbers = new Set(UAPI_REQUESTS.map(({ command }) => command));
    for (let command = 0x80; command <= 0x94; command++) expect(numbers).toContain(command);
    const operations = TEST_REQUESTS.map(({ arg }) => new DataView(arg.bytes.buffer).getUint32(4, true));
    // 9 would hold for the scripts behind it.
    for (let op = 1; op <= 23; op++) if (op !== 9) expect(operations).toContain(op);
  });
});

describe('scripts', () => {
  test('are the same for the same seed', () => {
    expect(randomScript(7)).toBe(randomScript(7));
    expect(fieldScripts(7).slice(0, 3)).toEqual(fieldScripts(7).slice(0, 3));
    const [first, second] = [randomScript(1), randomScript(2)];
    expect(mutate(new Dice(7), first, second)).toBe(mutate(new Dice(7), first, second));
  });

  test('that are taken apart are whole when put together', () => {
    const script = randomScript(3);
    expect(`${units(script).flat().join('\n')}\n`).toBe(script.replace(/ +$/gm, ''));
  });

  test('of every kind can be played', () => {
    for (const kind of KINDS)
      for (const script of scriptsOf(kind, 5, 6, [randomScript(1), randomScript(2)]))
        expect(play(script).length).toBeGreaterThan(0);
  });
});
