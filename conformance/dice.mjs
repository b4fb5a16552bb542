// Random numbers for what is recorded: the same again for the same seed.

/** Numbers from a seed: xorshift32. */
export function dice(seed) {
  let state = (Number(seed) * 2654435761) >>> 0 || 1;
  const roll = (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
  return { roll, pick: (list) => list[roll(list.length)] };
}

export const hex = (value) => value.toString(16);
export const big = (value) => BigInt(value);
