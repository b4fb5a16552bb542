import { expect, test } from 'vitest';
import { judge } from './judge.mjs';

const MAP = { name: 'maps', pattern: /^map / };
const run = (said: string[], trouble: string | null = null) => ({ lines: [], said, seconds: 1, trouble });

test('a run that says and traces what its case asks for is right', () => {
  const asked = { said: [/^ok nvme/], trace: [{ ...MAP, min: 1, max: 2 }] };
  expect(judge(asked, run(['ok nvme 1', 'done']), ['map 1', 'map 2', 'unmap 1'])).toEqual([]);
});

test('what is missing, too much or said to have failed is told', () => {
  const asked = {
    said: [/^ok nvme/],
    trace: [
      { ...MAP, min: 1 },
      { ...MAP, min: 0, max: 0 },
    ],
  };
  expect(judge(asked, run(['fail nvme: no disk'], 'ended with status 1'), [])).toEqual([
    'QEMU ended with status 1',
    'the guest said: fail nvme: no disk',
    'the guest did not say ^ok nvme',
    'maps: 0 in the trace, not 1 or more',
  ]);
  expect(judge(asked, run(['ok nvme']), ['map 1'])).toEqual(['maps: 1 in the trace, not 0 to 0']);
});
