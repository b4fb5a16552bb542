// What is done to a guest while it runs: steps that begin when it says something, by QEMU's monitor.

import assert from 'node:assert/strict';

/**
 * @typedef {object} Step
 * @property {RegExp} said begins it, once
 * @property {(qmp: import('./qmp.mjs').Qmp) => Promise<void>} run
 */

/** The device behind a port of PCI Express. @returns {Step} */
export const plug = (said, device) => ({ said, run: (qmp) => qmp.execute('device_add', device) });

/** The guest is asked to give the device back, and does. @returns {Step} */
export const unplug = (said, id) => ({
  said,
  run: async (qmp) => {
    const deleted = qmp.event('DEVICE_DELETED');
    await qmp.execute('device_del', { id });
    await deleted;
  },
});

/** @returns {Step} */
export const reset = (said) => ({
  said,
  run: async (qmp) => {
    // Until now a guest that reboots has crashed: -no-reboot.
    await qmp.execute('set-action', { reboot: 'reset' });
    await qmp.execute('system_reset');
  },
});

/** viommu's devices have no migration: QEMU says so, and goes on. @returns {Step} */
export const migrationRefused = (said) => ({
  said,
  run: async (qmp) => {
    await assert.rejects(
      qmp.execute('migrate', { uri: 'exec:cat >/dev/null' }),
      /VFIO migration init failed: migration is not supported in kernel/,
    );
    const answer = await qmp.execute('human-monitor-command', { 'command-line': 'savevm one' });
    assert.match(answer, /Error/);
  },
});

/** QEMU has viommu log which pages devices write, for a second. @returns {Step} */
export const dirtyRate = (said) => ({
  said,
  run: async (qmp) => {
    await qmp.execute('calc-dirty-rate', { 'calc-time': 1, mode: 'dirty-bitmap' });
    for (let tries = 0; tries < 100; tries++) {
      const { status } = await qmp.execute('query-dirty-rate');
      if (status === 'measured') return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.fail('the dirty rate was not measured');
  },
});
