import { fail, failed, type Result } from '../../../base/result.ts';
import { hex, u64 } from '../../../base/u64.ts';
import { EIO } from '../../../abi/errno.ts';
import type { Field } from '../../../base/bit-fields.ts';
import { ATC_INV_ALL, CMD, CMD_ATC_INV, CMD_CFGI, CMD_TLBI, TLBI_TG } from '../spec/commands.ts';
import { opcodeOf, type Command } from '../driver/queues/commands.ts';
import type { ArmSmmuFeatures } from '../driver/features.ts';
import type { ArmSmmu } from '../driver/smmu.ts';

// Commands of a guest on their way into the queue that all of the machine shares: arm-smmu-v3-iommufd.c
// arm_vsmmu_validate_user_cmd() and arm_vsmmu_convert_user_cmd(). The eight that a guest may send get the VMID of its
// stage 2, or the StreamID that its virtual one stands for.

/** Before this Linux only the opcode was looked at, and a reserved bit stopped the SMMU's queue for a while. */
const FIELDS_CHECKED_SINCE = 702;

/** CMDQ_TLBI_1_VA_MASK and CMDQ_ATC_1_ADDR_MASK in bits 31:0 of the second half. */
const ADDRESS_LO = 0xffff_f000;
/** SCALE[5], which only 52-bit addresses with small pages use. */
const SCALE_TOP = 1 << (CMD_TLBI.SCALE.shift + 5);

/** The bits of a command that may be set, per word. */
type Allowed = Uint32Array;

function allow(allowed: Allowed, ...fields: Field[]): Allowed {
  for (const field of fields) allowed[field.word]! |= field.inPlace;
  return allowed;
}

function read(field: Field, command: Command): number {
  return (command[field.word]! >>> field.shift) & field.mask;
}

/** arm_vsmmu_validate_range(): false for values that the specification reserves. */
function rangeValid(command: Command, features: ArmSmmuFeatures): boolean {
  const range = read(CMD_TLBI.NUM, command) !== 0 || read(CMD_TLBI.SCALE, command) !== 0;
  const ttl = read(CMD_TLBI.TTL, command);
  const tg = read(CMD_TLBI.TG, command);
  if (tg === TLBI_TG.ANY) return !range && ttl === 0;
  if (tg === TLBI_TG.GRAN16K && ttl === 1 && !features.ds) return false;
  return range || ttl !== 0;
}

function allowRange(allowed: Allowed, features: ArmSmmuFeatures): void {
  allow(allowed, CMD_TLBI.VMID, CMD_TLBI.Leaf);
  allowed[2]! |= ADDRESS_LO;
  allowed[3] = 0xffff_ffff;
  if (!features.rangeInv) return;
  allow(allowed, CMD_TLBI.NUM, CMD_TLBI.SCALE, CMD_TLBI.TG, CMD_TLBI.TTL);
  if (!features.ds) allowed[0]! &= ~SCALE_TOP;
}

/** The upper bits of ASIDs do not exist where an SMMU has 8-bit ones. */
function allowAsid(allowed: Allowed, features: ArmSmmuFeatures): void {
  allowed[1]! |= (2 ** features.asidBits - 1) << CMD_TLBI.ASID.shift;
}

/** What may be set in a command, or null where a guest may not send it so. */
function allowedBits(command: Command, features: ArmSmmuFeatures): Allowed | null {
  const allowed = new Uint32Array([0xff, 0, 0, 0]);
  const substreams = features.ssidBits > 0;
  switch (opcodeOf(command)) {
    case CMD.TLBI_NSNH_ALL:
      return allowed;
    case CMD.TLBI_NH_VA:
    case CMD.TLBI_NH_VAA:
      if (features.rangeInv && !rangeValid(command, features)) return null;
      if (opcodeOf(command) === CMD.TLBI_NH_VA) allowAsid(allowed, features);
      allowRange(allowed, features);
      return allowed;
    case CMD.TLBI_NH_ASID:
      allowAsid(allowed, features);
      return allow(allowed, CMD_TLBI.VMID);
    case CMD.TLBI_NH_ALL:
      return allow(allowed, CMD_TLBI.VMID);
    case CMD.ATC_INV:
      if (!features.ats || read(CMD_ATC_INV.Size, command) > ATC_INV_ALL) return null;
      allow(allowed, CMD_ATC_INV.StreamID, CMD_ATC_INV.Size);
      if (substreams) allow(allowed, CMD_ATC_INV.SSV, CMD_ATC_INV.SubstreamID, CMD_ATC_INV.Global);
      allowed[2]! |= ADDRESS_LO;
      allowed[3] = 0xffff_ffff;
      return allowed;
    case CMD.CFGI_CD:
      allow(allowed, CMD_CFGI.StreamID, CMD_TLBI.Leaf);
      return substreams ? allow(allowed, CMD_CFGI.SubstreamID) : allowed;
    case CMD.CFGI_CD_ALL:
      return allow(allowed, CMD_CFGI.StreamID);
    default:
      return null;
  }
}

function describe(command: Command): string {
  return `${hex(u64(command[1]!, command[0]!))} ${hex(u64(command[3]!, command[2]!))}`;
}

/** Whose commands they are. */
export interface GuestTarget {
  readonly smmu: ArmSmmu;
  /** What their VMID becomes. */
  readonly vmid: number;
  /** The StreamID for a guest's. EIO where it means no device. */
  sidOf(vsid: number): Result<number>;
}

/** Turns a guest's command into the one that is sent, in place. EIO where it may not be sent. */
export function convertGuestCommand(target: GuestTarget, command: Command): Result<void> {
  const { kernel, features } = target.smmu;
  if (kernel.version >= FIELDS_CHECKED_SINCE) {
    const allowed = allowedBits(command, features);
    if (allowed === null || command.some((word, i) => (word & ~allowed[i]!) !== 0))
      return fail(EIO, `a guest may not send the command ${describe(command)}`);
  }
  switch (opcodeOf(command)) {
    case CMD.TLBI_NSNH_ALL:
      command.set([CMD.TLBI_NH_ALL, target.vmid, 0, 0]);
      return;
    case CMD.TLBI_NH_VA:
    case CMD.TLBI_NH_VAA:
    case CMD.TLBI_NH_ALL:
    case CMD.TLBI_NH_ASID:
      command[1] = (command[1]! & ~CMD_TLBI.VMID.inPlace) | target.vmid;
      return;
    case CMD.ATC_INV:
    case CMD.CFGI_CD:
    case CMD.CFGI_CD_ALL: {
      const sid = target.sidOf(command[1]!);
      if (failed(sid)) return sid;
      command[1] = sid;
      return;
    }
    default:
      return fail(EIO, `a guest may not send the command ${describe(command)}`);
  }
}
