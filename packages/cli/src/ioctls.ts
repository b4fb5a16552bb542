import { IOCTL_OPS, knownSize, smallestSize, TRIAL_OPS } from '@viommu/core/iommufd/dispatch';
import type { IoctlOp } from '@viommu/core/iommufd/ioctl-op';
import { DEFAULT_PROFILE, versionName, type Profile } from '@viommu/core/iommufd/profile';
import type { TrialUapi } from '@viommu/core/iommufd/trial-uapi';
import { profileNamed, uapisNamed } from './profile.ts';
import { systemReason, UsageError } from './usage-error.ts';
import { writeAll } from './write-all.ts';

const STANDARD_OUTPUT = 1;

const HEAD = ['REQUEST', 'NUMBER', 'SINCE', 'SIZE', 'SMALLEST', 'ANSWER', 'NOTE'];

function rowOf(op: IoctlOp, { version }: Profile): string[] {
  const known = op.since <= version;
  return [
    op.name,
    `0x${op.cmd.toString(16)}`,
    op.uapi ?? versionName(op.since),
    known ? String(knownSize(op, version)) : '-',
    known ? String(smallestSize(op, version)) : '-',
    known ? 'yes' : 'ENOTTY',
    op.note ?? '',
  ];
}

/** The support matrix of one kernel, from the dispatch table: Linux's requests, and those of `uapis`. */
function ioctlMatrix(profile: Profile, uapis: readonly TrialUapi[] = []): string {
  const trial = TRIAL_OPS.filter((op) => uapis.some((uapi) => uapi === op.uapi));
  const rows = [HEAD, ...[...IOCTL_OPS, ...trial].map((op) => rowOf(op, profile))];
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** What `viommu ioctls` was told. */
export interface IoctlsOptions {
  readonly kernel?: string;
  readonly uapi?: readonly string[];
}

/** `viommu ioctls`. */
export function ioctls(options: IoctlsOptions): void {
  const profile = profileNamed(options.kernel ?? DEFAULT_PROFILE);
  const uapis = uapisNamed(options.uapi);
  const what = [profile.name, ...uapis].join(' with ');
  const text = `/dev/iommu as ${what} answers it\n\n${ioctlMatrix(profile, uapis)}\n`;
  const failure = writeAll(STANDARD_OUTPUT, text);
  if (failure === null || failure.code === 'EPIPE') return;
  throw new UsageError(`standard output cannot be written (${systemReason(failure)})`);
}
