import { existsSync, fstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { SystemText } from '@viommu/host/native';
import { textOf } from '@viommu/host/program/spawn';

// What a program would have inherited had it been started without us. Node makes every descriptor that it finds
// close-on-exec and raises RLIMIT_NOFILE (src/node.cc InitializeOncePerProcess(), PlatformInit()); the program shall not
// notice.

/** What Node opens for itself: event loops, wake-ups, and pipes of which it has both ends. */
const OWN = /^anon_inode:\[(?:eventpoll|eventfd|io_uring)\]$/;

/** Descriptors from 3 on that we were started with, as far as they can be told from Node's own. */
export function inheritedDescriptors(): number[] {
  const open = namesIn('/proc/self/fd').flatMap((name) => {
    const fd = Number.parseInt(name, 10);
    try {
      return fd < 3 ? [] : [{ fd, link: readlinkSync(`/proc/self/fd/${fd}`) }];
    } catch {
      return [];
    }
  });
  return open
    .filter(({ fd, link }) => {
      if (
        OWN.test(link) ||
        (link.startsWith('pipe:') && open.some((each) => each.fd !== fd && each.link === link))
      )
        return false;
      return !isOwnNull(fd, link);
    })
    .map(({ fd }) => fd);
}

/** The last of our arguments as they were given: Node takes what is no UTF-8 for something else. */
export function inheritedArguments(last: readonly string[]): readonly SystemText[] {
  const given = textsIn('/proc/self/cmdline').slice(-last.length);
  return given.length === last.length && given.every((each, at) => textOf(each) === last[at]) ? given : last;
}

/** Our environment as it was given; undefined where the system does not tell. */
export function inheritedEnvironment(): readonly SystemText[] | undefined {
  const given = textsIn('/proc/self/environ');
  return given.length === 0 ? undefined : given;
}

/** What a file holds, each text ended by a 0. */
function textsIn(path: string): Uint8Array[] {
  const texts: Uint8Array[] = [];
  if (!existsSync(path)) return texts;
  const bytes = readFileSync(path);
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(0, at);
    if (end < 0) break;
    texts.push(bytes.subarray(at, end));
    at = end + 1;
  }
  return texts;
}

/** Without /proc the program cannot be started, which the supervisor says. */
function namesIn(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory) : [];
}

/** libuv keeps /dev/null open while it sets up standard streams. */
function isOwnNull(fd: number, link: string): boolean {
  return link === '/dev/null' && fstatSync(fd).isCharacterDevice();
}

/** The soft limit on descriptors that we were started with: our parent's, where the hard one is the same as ours. */
export function inheritedDescriptorLimit(): number | undefined {
  const limits = (pid: number | 'self'): readonly [string, string] | null => {
    try {
      const text = readFileSync(`/proc/${pid}/limits`, 'latin1');
      const match = /^Max open files\s+(\S+)\s+(\S+)/m.exec(text);
      return match === null ? null : [match[1]!, match[2]!];
    } catch {
      return null;
    }
  };
  const [ours, parents] = [limits('self'), limits(process.ppid)];
  if (ours === null || parents === null || ours[1] !== parents[1]) return undefined;
  const soft = Number.parseInt(parents[0], 10);
  return Number.isNaN(soft) ? undefined : soft;
}
