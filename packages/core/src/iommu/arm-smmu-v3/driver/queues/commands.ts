import { hi32, lo32 } from '../../../../base/u64.ts';
import {
  ATC_INV_ALL,
  CFGI_ALL,
  CMD,
  CMD_ATC_INV,
  CMD_BYTES,
  CMD_CFGI,
  CMD_PRI_RESP,
  CMD_RESUME,
  CMD_SYNC,
  CMD_TLBI,
  CMD_WORDS,
} from '../../spec/commands.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';

// drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h arm_smmu_make_cmd_*(). A command is its four 32-bit words.

export type Command = Uint32Array;

/** CMD_SYNC: inner shareable, Write-Back (ARM_SMMU_SH_ISH, ARM_SMMU_MEMATTR_OIWB). */
const SYNC_ATTRIBUTES = (3 << CMD_SYNC.MSH.shift) | (0xf << CMD_SYNC.MSIAttr.shift);

export function makeCommand(opcode: number): Command {
  const words = new Uint32Array(CMD_WORDS);
  words[0] = opcode;
  return words;
}

export function opcodeOf(command: Command): number {
  return command[0]! & 0xff;
}

export function cfgiSte(sid: number, leaf: boolean): Command {
  const words = makeCommand(CMD.CFGI_STE);
  words[1] = sid;
  words[2] = leaf ? 1 : 0;
  return words;
}

export function cfgiAll(): Command {
  const words = makeCommand(CMD.CFGI_STE_RANGE);
  words[2] = CFGI_ALL;
  return words;
}

export function cfgiCd(sid: number, ssid: number, leaf: boolean): Command {
  const words = makeCommand(CMD.CFGI_CD);
  words[0]! |= ssid << CMD_CFGI.SubstreamID.shift;
  words[1] = sid;
  words[2] = leaf ? 1 : 0;
  return words;
}

export function prefetchConfig(sid: number): Command {
  const words = makeCommand(CMD.PREFETCH_CONFIG);
  words[1] = sid;
  return words;
}

/** A CMD_TLBI_* without an address. */
export function tlbi(opcode: number, asid: number, vmid: number): Command {
  const words = makeCommand(opcode);
  words[1] = vmid | (asid << CMD_TLBI.ASID.shift);
  return words;
}

/** `log2Pages` of 4 KiB from `address` on; ATC_INV_ALL is everything. */
export function atcInv(sid: number, ssid: number, address: number, log2Pages: number): Command {
  const words = makeCommand(CMD.ATC_INV);
  if (ssid !== IOMMU_NO_PASID)
    words[0]! |= (1 << CMD_ATC_INV.SSV.shift) | (ssid << CMD_ATC_INV.SubstreamID.shift);
  words[1] = sid;
  words[2] = ((address >>> 0) & 0xffff_f000) | log2Pages;
  words[3] = Math.floor(address / 2 ** 32);
  return words;
}

export function atcInvAll(sid: number, ssid: number): Command {
  return atcInv(sid, ssid, 0, ATC_INV_ALL);
}

/** CMDQ_RESUME_0_RESP: Ac and Ab. */
export const RESUME = { TERMINATE: 0, RETRY: 1, ABORT: 2 } as const;

export function resume(sid: number, stag: number, response: number): Command {
  const words = makeCommand(CMD.RESUME);
  words[0]! |= response << CMD_RESUME.Ac.shift;
  words[1] = sid;
  words[2] = stag;
  return words;
}

export function priResponse(
  sid: number,
  ssid: number,
  ssv: boolean,
  group: number,
  response: number,
): Command {
  const words = makeCommand(CMD.PRI_RESP);
  if (ssv) words[0]! |= (1 << CMD_PRI_RESP.SSV.shift) | (ssid << CMD_PRI_RESP.SubstreamID.shift);
  words[1] = sid;
  words[2] = group | (response << CMD_PRI_RESP.Resp.shift);
  return words;
}

/** `msiAddress` is where a zero is written on completion, 0 for nowhere. */
export function sync(signal: number, msiAddress: number): Command {
  const words = makeCommand(CMD.SYNC);
  words[0]! |= (signal << CMD_SYNC.CS.shift) | SYNC_ATTRIBUTES;
  words[2] = (msiAddress >>> 0) & ~3;
  words[3] = Math.floor(msiAddress / 2 ** 32);
  return words;
}

/** The commands of a client's array, little-endian. */
export function commandsFromBytes(bytes: Uint8Array): Command[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const commands: Command[] = [];
  for (let at = 0; at + CMD_BYTES <= bytes.length; at += CMD_BYTES) {
    const words = new Uint32Array(CMD_WORDS);
    for (let i = 0; i < CMD_WORDS; i++) words[i] = view.getUint32(at + i * 4, true);
    commands.push(words);
  }
  return commands;
}

/** The two 64-bit halves, as the kernel's header shows them. */
export function commandOf(low: bigint, high: bigint): Command {
  return Uint32Array.of(lo32(low), hi32(low), lo32(high), hi32(high));
}
