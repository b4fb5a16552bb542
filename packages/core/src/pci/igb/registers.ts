// The Intel 82576, as far as this model goes: registers of BAR 0, by the datasheet's names (drivers/net/ethernet/intel/igb
// e1000_regs.h and e1000_defines.h have the same). Data only.

export const IGB_VENDOR = 0x8086;
export const IGB_DEVICE = 0x10c9;
export const IGB_BAR_BYTES = 128 << 10;
/** BAR 3: the MSI-X table. */
export const IGB_MSIX_BAR_BYTES = 16 << 10;
export const IGB_VECTORS = 10;

export const REG = {
  CTRL: 0x0000,
  STATUS: 0x0008,
  EECD: 0x0010,
  CTRL_EXT: 0x0018,
  MDIC: 0x0020,
  IMC: 0x00d8,
  RCTL: 0x0100,
  TCTL: 0x0400,
  GPIE: 0x1514,
  EICS: 0x1520,
  EIMS: 0x1524,
  EIMC: 0x1528,
  EIAC: 0x152c,
  EIAM: 0x1530,
  EICR: 0x1580,
  IVAR0: 0x1700,
  GCR: 0x5b00,
  RDBAL: 0x2800,
  RDBAH: 0x2804,
  RDLEN: 0x2808,
  SRRCTL: 0x280c,
  RDH: 0x2810,
  RDT: 0x2818,
  RXDCTL: 0x2828,
  TDBAL: 0x3800,
  TDBAH: 0x3804,
  TDLEN: 0x3808,
  TDH: 0x3810,
  TDT: 0x3818,
  TXDCTL: 0x3828,
} as const;

export const CTRL_FD = 1 << 0;
export const CTRL_RST = 1 << 26;
export const STATUS_FD = 1 << 0;
export const STATUS_LU = 1 << 1;
export const STATUS_SPEED_1000 = 1 << 7;
export const EECD_PRES = 1 << 8;
export const EECD_AUTO_RD = 1 << 9;
export const GCR_CMPL_TMOUT_RESEND = 1 << 16;

export const MDIC_DATA_MASK = 0xffff;
export const MDIC_OP_WRITE = 1 << 26;
export const MDIC_OP_READ = 1 << 27;
export const MDIC_READY = 1 << 28;
/** Register 0 of the PHY, and its bit for internal loopback (linux/mii.h). */
export const MII_BMCR = 0;
export const BMCR_LOOPBACK = 0x4000;

export const RCTL_EN = 1 << 1;
export const RCTL_LBM_MAC = 1 << 6;
export const RCTL_BSIZE_SHIFT = 16;
export const TCTL_EN = 1 << 1;
export const TCTL_PSP = 1 << 3;
export const QUEUE_ENABLE = 1 << 25;

export const GPIE_EIAME = 1 << 30;
export const IVAR_VALID = 0x80;

// Descriptors: 16 bytes each.
export const DESCRIPTOR_BYTES = 16;
export const TXD_DTYP_MASK = 0x00f0_0000;
export const TXD_DTYP_DATA = 0x0030_0000;
export const TXD_EOP = 1 << 24;
export const TXD_RS = 1 << 27;
export const TXD_DEXT = 1 << 29;
export const TXD_STA_DD = 1 << 0;
export const RXD_STAT_DD = 1 << 0;
export const RXD_STAT_EOP = 1 << 1;

/** What the MAC pads to where TCTL.PSP says so. */
export const PAYLOAD_MIN = 60;
/** The longest packet: jumbo frames of 9.5 KiB. */
export const PACKET_MAX = 9728;
