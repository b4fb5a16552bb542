import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decode, readField } from '../../../../base/bit-fields.ts';
import { CMD, CMD_ATC_INV, CMD_TLBI } from '../../spec/commands.ts';
import { tlbi, type Command } from '../queues/commands.ts';
import { atcCommand, commandsFor, endsBatch, rangeCommands, type InvRange } from './invalidate.ts';
import { INV_TYPE, type Invalidation } from './invalidation-list.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

function commands(range: InvRange, rangeInv = true, pageBits = 12): Command[] {
  const out: Command[] = [];
  rangeCommands(tlbi(CMD.TLBI_NH_VA, 5, 0), range, rangeInv, pageBits, (command) => out.push(command));
  return out;
}

const address = (command: Command): number => command[3]! * 2 ** 32 + ((command[2]! & 0xffff_f000) >>> 0);

/** What a range command covers (IHI 0070G.b §4.4.1.1). */
function covered(command: Command): { start: number; bytes: number } {
  const granule = 2 ** (10 + 2 * readField(CMD_TLBI.TG, command));
  const pages = (readField(CMD_TLBI.NUM, command) + 1) * 2 ** readField(CMD_TLBI.SCALE, command);
  return { start: address(command), bytes: pages * granule };
}

const fields = (command: Command): Record<string, number | bigint> => {
  const { NUM, SCALE, TG, TTL, Leaf } = decode(CMD_TLBI, command);
  return { NUM: NUM!, SCALE: SCALE!, TG: TG!, TTL: TTL!, Leaf: Leaf! };
};

describe('invalidation by range', () => {
  it('needs one command for one page, with the level of the leaf', () => {
    const [command, ...rest] = commands({ iova: 0x1000, size: 4 * KIB, granule: 4 * KIB, leaf: true });
    expect(rest).toEqual([]);
    expect(fields(command!)).toEqual({ NUM: 0, SCALE: 0, TG: 1, TTL: 3, Leaf: 1 });
    expect(readField(CMD_TLBI.ASID, command!)).toBe(5);
    expect(address(command!)).toBe(0x1000);
  });

  it('names level 2 for 2 MiB and level 1 for 1 GiB', () => {
    const of = (granule: number): number =>
      readField(CMD_TLBI.TTL, commands({ iova: 0, size: granule, granule, leaf: true })[0]!);
    expect([of(2 * MIB), of(GIB)]).toEqual([2, 1]);
    const large = (granule: number, pageBits: number): number =>
      readField(CMD_TLBI.TTL, commands({ iova: 0, size: granule, granule, leaf: true }, true, pageBits)[0]!);
    expect([large(64 * KIB, 16), large(512 * MIB, 16), large(16 * KIB, 14), large(32 * MIB, 14)]).toEqual([
      3, 2, 3, 2,
    ]);
  });

  it('takes tables too where it is not for leaves, and then never NUM, SCALE and TTL all zero', () => {
    const [command] = commands({ iova: 0x40_0000, size: 4 * KIB, granule: 4 * KIB, leaf: false });
    expect(fields(command!)).toEqual({ NUM: 0, SCALE: 1, TG: 1, TTL: 0, Leaf: 0 });
  });

  it('goes through a length five bits at a time, the smallest first', () => {
    // 0b1_00011_00000 pages + 1.
    const pages = 0b1_0001_1000_01;
    const parts = commands({ iova: 0, size: pages * 4 * KIB, granule: 4 * KIB, leaf: true }).map(covered);
    expect(parts).toEqual([
      { start: 0, bytes: 4 * KIB },
      { start: 4 * KIB, bytes: 3 * 32 * 4 * KIB },
      { start: 97 * 4 * KIB, bytes: 1024 * 4 * KIB },
    ]);
  });

  it('covers exactly what was asked for, whatever it is', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 36 - 1 }),
        fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 2 ** 30 })),
        fc.constantFrom(12, 14, 16),
        (page, pages, pageBits) => {
          const size = 2 ** pageBits;
          const range = { iova: page * size, size: pages * size, granule: size, leaf: true };
          let at = range.iova;
          for (const part of commands(range, true, pageBits).map(covered)) {
            expect(part.start).toBe(at);
            at += part.bytes;
          }
          expect(at).toBe(range.iova + range.size);
        },
      ),
    );
  });

  it('goes page by page where the SMMU knows no ranges', () => {
    const list = commands({ iova: 0x1000, size: 3 * 4 * KIB, granule: 4 * KIB, leaf: true }, false);
    expect(list.map(address)).toEqual([0x1000, 0x2000, 0x3000]);
    expect(list.map((each) => each[2]! & 0xfff)).toEqual([1, 1, 1]);
  });
});

describe('one entry of a domain', () => {
  const inv = (type: Invalidation['type'], id = 7): Invalidation => ({
    smmu: { index: 0 },
    type,
    id,
    ssid: 3,
    sizeOpcode: CMD.TLBI_S2_IPA,
    nsizeOpcode: CMD.TLBI_S12_VMALL,
    pageBits: 12,
    users: 1,
  });
  const opcodes = (of: Invalidation, range: InvRange, ril: boolean): number[] => {
    const out: number[] = [];
    commandsFor(of, range, ril, (command) => out.push(command[0]! & 0xff));
    return out;
  };

  it('is invalidated whole where it would take too many commands without ranges', () => {
    const range = { iova: 0, size: 2 * MIB, granule: 4 * KIB, leaf: true };
    expect(opcodes(inv(INV_TYPE.S2_VMID), range, false)).toEqual([CMD.TLBI_S12_VMALL]);
    expect(opcodes(inv(INV_TYPE.S2_VMID), { ...range, size: MIB }, false)).toHaveLength(256);
    expect(opcodes(inv(INV_TYPE.S2_VMID), range, true)).toEqual([CMD.TLBI_S2_IPA]);
  });

  it('does not clear nested stage 1 twice', () => {
    const all = { iova: 0, size: 0, granule: 0, leaf: false };
    expect(opcodes(inv(INV_TYPE.S2_VMID_S1_CLEAR), all, true)).toEqual([]);
    const some = { iova: 0, size: 4 * KIB, granule: 4 * KIB, leaf: true };
    expect(opcodes(inv(INV_TYPE.S2_VMID_S1_CLEAR), some, true)).toEqual([CMD.TLBI_S2_IPA]);
  });

  it('ends a batch before nested stage 1, before ATCs and before another SMMU', () => {
    const { S2_VMID, S2_VMID_S1_CLEAR, ATS, ATS_FULL } = INV_TYPE;
    expect(endsBatch(inv(S2_VMID), inv(S2_VMID_S1_CLEAR))).toBe(true);
    expect(endsBatch(inv(S2_VMID_S1_CLEAR), inv(ATS_FULL))).toBe(true);
    expect(endsBatch(inv(ATS, 1), inv(ATS, 2))).toBe(true);
    const smmu = { index: 0 };
    expect(endsBatch({ ...inv(ATS, 1), smmu }, { ...inv(ATS, 2), smmu })).toBe(false);
  });
});

describe('invalidation of an ATC', () => {
  const span = (iova: number, size: number): number[] => {
    const command = atcCommand(8, 0, iova, size);
    return [address(command) / 4096, 2 ** readField(CMD_ATC_INV.Size, command)];
  };

  it('takes the smallest aligned power of two that covers the range', () => {
    expect(span(8 * 4096, 4 * 4096)).toEqual([8, 4]);
    expect(span(7 * 4096, 4 * 4096)).toEqual([0, 16]);
    expect(span(5 * 4096, 4096)).toEqual([5, 1]);
  });

  it('is of everything where no size is given, and carries a PASID where there is one', () => {
    expect(readField(CMD_ATC_INV.Size, atcCommand(8, 0, 0, 0))).toBe(52);
    const command = atcCommand(8, 9, 0, 4096);
    expect(readField(CMD_ATC_INV.SSV, command)).toBe(1);
    expect(readField(CMD_ATC_INV.SubstreamID, command)).toBe(9);
    expect(readField(CMD_ATC_INV.SSV, atcCommand(8, 0, 0, 4096))).toBe(0);
  });
});
