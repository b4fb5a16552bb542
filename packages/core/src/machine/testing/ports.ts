import { failed } from '../../base/result.ts';
import type { DmaPort } from '../../iommu/requests/dma-port.ts';
import type { Vendor } from '../iommus/vendor.ts';

/** As `vendor`, and `ports` has where devices' requests go, in the order of the devices: for what no device model sends. */
export function withPorts(vendor: Vendor, ports: DmaPort[]): Vendor {
  return {
    ...vendor,
    start(kernel, uapis) {
      const driver = vendor.start(kernel, uapis);
      return {
        addUnit(name, settings) {
          const unit = driver.addUnit(name, settings);
          if (failed(unit)) return unit;
          return {
            addFunction(part, group) {
              const placed = unit.addFunction(part, group);
              if (!failed(placed)) ports.push(placed.port);
              return placed;
            },
          };
        },
      };
    },
  };
}
