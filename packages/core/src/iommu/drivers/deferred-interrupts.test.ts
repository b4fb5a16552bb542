import { describe, expect, it } from 'vitest';
import { DeferredInterrupts } from './deferred-interrupts.ts';

function setUp(defer: ((serve: () => void) => void) | null = null) {
  const handled: string[] = [];
  const interrupts = new DeferredInterrupts<string>((which) => void handled.push(which), defer);
  return { handled, interrupts };
}

describe('DeferredInterrupts', () => {
  it('wait until they are served, each once', () => {
    const { handled, interrupts } = setUp();
    for (const which of ['a', 'b', 'a']) interrupts.raise(which);
    expect(handled).toEqual([]);
    interrupts.serve();
    interrupts.serve();
    expect(handled).toEqual(['a', 'b']);
  });

  it('are kept out of a change, and come at its end', () => {
    const { handled, interrupts } = setUp();
    const answer = interrupts.exclusively(() => {
      interrupts.raise('a');
      interrupts.serve();
      interrupts.exclusively(() => interrupts.serve());
      expect(handled).toEqual([]);
      return 7;
    });
    expect([answer, handled]).toEqual([7, ['a']]);
  });

  it('come at the end of a change that throws, too', () => {
    const { handled, interrupts } = setUp();
    const broken = (): never => {
      interrupts.raise('a');
      throw new Error('broken');
    };
    expect(() => interrupts.exclusively(broken)).toThrow('broken');
    expect(handled).toEqual(['a']);
  });

  it('that a handler raises are served after it', () => {
    const handled: string[] = [];
    const interrupts: DeferredInterrupts<string> = new DeferredInterrupts((which: string) => {
      if (which === 'a') {
        interrupts.raise('b');
        interrupts.serve();
      }
      handled.push(which);
    }, null);
    interrupts.raise('a');
    interrupts.serve();
    expect(handled).toEqual(['a', 'b']);
  });

  it('can be taken out of turn', () => {
    const { handled, interrupts } = setUp();
    interrupts.raise('a');
    expect([interrupts.take('a'), interrupts.take('a')]).toEqual([true, false]);
    interrupts.serve();
    expect(handled).toEqual([]);
  });

  it('are deferred to whoever runs them soon, unless a change will do', () => {
    const later: (() => void)[] = [];
    const { handled, interrupts } = setUp((serve) => void later.push(serve));
    interrupts.raise('a');
    interrupts.exclusively(() => interrupts.raise('b'));
    expect(later).toHaveLength(1);
    expect(handled).toEqual(['a', 'b']);
    later[0]!();
    expect(handled).toHaveLength(2);
  });
});
