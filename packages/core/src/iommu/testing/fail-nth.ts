import { EFAULT, EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC } from '../../abi/errno.ts';

/** iommufd answers EFAULT for a copy to the program, ENOENT and EINVAL for a look-up; drivers, ENODEV and ENOSPC. */
const ERRNOS: readonly number[] = [ENOMEM, EFAULT, ENOENT, EINVAL, ENODEV, ENOSPC];
const CHANCES_MAX = 100;

/**
 * Linux's fault injection: takes the nth chance to fail of a request, for every n that there is, until it succeeds.
 * `request` answers its errno, or that below 0; `unchanged` sees it, and that nothing else came of the request. Answers at how many points
 * it could fail.
 */
export function failEverywhere(
  { task }: { readonly task: { readonly failNth?: { remaining: number } } },
  request: () => number,
  unchanged: (errno: number) => void,
): number {
  const nth = task.failNth;
  if (nth === undefined) throw new Error('the task has no fault injection');
  for (let n = 1; n < CHANCES_MAX; n++) {
    nth.remaining = n;
    const errno = Math.abs(request());
    const taken = nth.remaining === 0;
    nth.remaining = 0;
    // What only tidies up may fail without anybody noticing.
    if (errno === 0) return n - 1;
    if (!taken) throw new Error(`the request ends with ${errno}, though nothing failed`);
    if (!ERRNOS.includes(errno)) throw new Error(`${errno} is no errno of a failure`);
    unchanged(errno);
  }
  throw new Error('the request never succeeds');
}
