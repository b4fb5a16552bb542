/*
 * A guest without an operating system, a kernel of 32 bits that drives an NVMe controller, first with its pin
 * and then with MSI-X, by stores to its registers and by DMA. It uses no instruction that an emulator might lack, so it
 * runs also where KVM emulates what guests do in kernel mode. What it finds out goes to the serial port, as of guest.sh.
 */
#include <stddef.h>
#include <stdint.h>

#define PCI_SLOT 4
#define COM1 0x3f8
#define PM1_CONTROL 0x604 /* q35's, where SeaBIOS puts it */
#define LAPIC 0xfee00000
#define VECTOR_PIC 0x20
#define VECTOR_MSIX 0x40
#define SPINS_MAX 100000000u

struct __attribute__((packed)) gate {
	uint16_t low, selector;
	uint16_t type;
	uint16_t high;
};

struct __attribute__((packed)) pointer {
	uint16_t limit;
	uint32_t base;
};

struct command {
	uint32_t head, namespace, reserved[4];
	uint64_t prp1, prp2;
	uint32_t dword10, dword11, dword12, rest[3];
};

struct completion {
	uint32_t result, reserved;
	uint16_t head, queue;
	uint16_t id, status;
};

/* NVM Express 1.4: registers, admin and I/O commands. */
enum { CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, DOORBELLS = 0x1000 };
enum { CREATE_SQ = 1, CREATE_CQ = 5, IDENTIFY = 6, WRITE = 1, READ = 2 };
#define ENTRIES 16

struct queue {
	struct command commands[ENTRIES] __attribute__((aligned(4096)));
	struct completion completions[ENTRIES] __attribute__((aligned(4096)));
	uint32_t id, tail, head, phase;
};

static struct queue admin, disk;
static uint8_t buffer[4096] __attribute__((aligned(4096)));
static struct gate gates[256] __attribute__((aligned(8)));
static volatile uint32_t *registers;
static struct queue *volatile asked;
static volatile int answer;

static void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void put(const char *text)
{
	for (; *text; text++) {
		while (!(in8(COM1 + 5) & 0x20))
			;
		out8(COM1, *text);
	}
}

static void say(const char *what, const char *more)
{
	put("guest: ");
	put(what);
	put(more);
	put("\r\n");
}

static void __attribute__((noreturn)) end(void)
{
	say("done", "");
	__asm__ volatile("outw %0, %1" : : "a"((uint16_t)0x2000), "Nd"((uint16_t)PM1_CONTROL));
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void must(int holds, const char *what)
{
	if (holds)
		return;
	say("fail nvme: ", what);
	end();
}

static uint32_t config(uint32_t at)
{
	out32(0xcf8, 0x80000000u | PCI_SLOT << 11 | at);
	return in32(0xcfc);
}

static void set_config(uint32_t at, uint32_t value)
{
	out32(0xcf8, 0x80000000u | PCI_SLOT << 11 | at);
	out32(0xcfc, value);
}

static void ring(const struct queue *queue, int completions, uint32_t value)
{
	registers[(DOORBELLS + 8 * queue->id + 4 * completions) / 4] = value;
}

/* The status of the next completion, or -1 where there is none. */
static int take(struct queue *queue)
{
	uint16_t status = ((volatile struct completion *)queue->completions)[queue->head].status;

	if ((status & 1) != queue->phase)
		return -1;
	queue->head = (queue->head + 1) % ENTRIES;
	if (queue->head == 0)
		queue->phase ^= 1;
	ring(queue, 1, queue->head);
	return status >> 1;
}

/* Only what is taken lets the pin fall. */
static void take_answer(void)
{
	int status = asked ? take(asked) : -1;

	if (status >= 0)
		answer = status;
}

static void __attribute__((used)) on_pin(void)
{
	take_answer();
	out8(0xa0, 0x20);
	out8(0x20, 0x20);
}

static void __attribute__((used)) on_message(void)
{
	take_answer();
	*(volatile uint32_t *)(LAPIC + 0xb0) = 0;
}

/* With a far return: emulators know IRET in real mode only (arch/x86/kvm/emulate.c em_iret()). */
#define ENTRY(name) \
	void enter_##name(void); \
	__asm__(".pushsection .text\n" \
		"enter_" #name ": pusha; cld; call " #name "; popa; pushl 8(%esp); popfl; lret $4\n" \
		".popsection\n")
ENTRY(on_pin);
ENTRY(on_message);

static void set_gate(int vector, void (*handler)(void))
{
	uint16_t selector;

	__asm__("mov %%cs, %0" : "=r"(selector));
	gates[vector] = (struct gate){ (uint32_t)handler, selector, 0x8e00, (uint32_t)handler >> 16 };
}

static void prepare_interrupts(uint8_t line)
{
	struct pointer pointer = { sizeof(gates) - 1, (uint32_t)gates };

	for (int vector = VECTOR_PIC; vector < VECTOR_PIC + 16; vector++)
		set_gate(vector, enter_on_pin);
	set_gate(VECTOR_MSIX, enter_on_message);
	__asm__ volatile("lidt %0" : : "m"(pointer));
	out8(0x20, 0x11), out8(0xa0, 0x11);
	out8(0x21, VECTOR_PIC), out8(0xa1, VECTOR_PIC + 8);
	out8(0x21, 4), out8(0xa1, 2);
	out8(0x21, 1), out8(0xa1, 1);
	out8(0x21, ~(1 << 2 | (line < 8 ? 1 << line : 0)));
	out8(0xa1, ~(line < 8 ? 0 : 1 << (line - 8)));
	*(volatile uint32_t *)(LAPIC + 0xf0) = 0x1ff;
	__asm__ volatile("sti");
}

/* Sends one command; its completion is taken when its interrupt comes. */
static void run(struct queue *queue, uint32_t opcode, struct command command)
{
	command.head = opcode;
	command.prp1 = command.prp1 ? command.prp1 : (uint32_t)buffer;
	queue->commands[queue->tail] = command;
	queue->tail = (queue->tail + 1) % ENTRIES;
	answer = -1;
	asked = queue;
	ring(queue, 0, queue->tail);
	for (uint32_t spins = 0; answer < 0; spins++)
		must(spins < SPINS_MAX, "no interrupt");
	must(answer == 0, "a command ended in an error");
}

static void enable(void)
{
	registers[CC / 4] = 0;
	for (uint32_t spins = 0; registers[CSTS / 4] & 1; spins++)
		must(spins < SPINS_MAX, "it does not stop");
	admin.phase = disk.phase = 1;
	disk.id = 1;
	registers[AQA / 4] = (ENTRIES - 1) << 16 | (ENTRIES - 1);
	registers[ASQ / 4] = (uint32_t)admin.commands, registers[ASQ / 4 + 1] = 0;
	registers[ACQ / 4] = (uint32_t)admin.completions, registers[ACQ / 4 + 1] = 0;
	registers[CC / 4] = 4 << 20 | 6 << 16 | 1;
	for (uint32_t spins = 0; !(registers[CSTS / 4] & 1); spins++)
		must(spins < SPINS_MAX, "it does not start");
}

static void identify(const char *how)
{
	char model[41];

	run(&admin, IDENTIFY, (struct command){ .dword10 = 1 });
	for (int i = 0; i < 40; i++)
		model[i] = buffer[24 + i];
	for (int i = 39; i > 0 && model[i] == ' '; i--)
		model[i] = 0;
	model[40] = 0;
	say(how, model);
}

/* Vector 0 comes as a message to this processor. */
static void use_msix(void)
{
	uint32_t at = config(0x34) & 0xff, table, bar;
	volatile uint32_t *vector;

	while (at && (config(at) & 0xff) != 0x11)
		at = config(at) >> 8 & 0xff;
	must(at != 0, "no MSI-X");
	table = config(at + 4);
	bar = config(0x10 + 4 * (table & 7));
	vector = (volatile uint32_t *)((bar & ~15u) + (table & ~7u));
	vector[0] = LAPIC, vector[1] = 0, vector[2] = VECTOR_MSIX, vector[3] = 0;
	set_config(at, (config(at) & 0x3fffffffu) | 0x80000000u);
}

static void use_disk(void)
{
	static const char words[] = "written by the guest\n";

	run(&admin, CREATE_CQ, (struct command){ .prp1 = (uint32_t)disk.completions,
						 .dword10 = (ENTRIES - 1) << 16 | 1, .dword11 = 3 });
	run(&admin, CREATE_SQ, (struct command){ .prp1 = (uint32_t)disk.commands,
						 .dword10 = (ENTRIES - 1) << 16 | 1, .dword11 = 1 << 16 | 1 });
	for (size_t i = 0; i < sizeof(buffer); i++)
		buffer[i] = i < sizeof(words) - 1 ? words[i] : (char)(i >> 4);
	run(&disk, WRITE, (struct command){ .namespace = 1, .dword10 = 3, .dword12 = 0 });
	for (size_t i = 0; i < sizeof(buffer); i++)
		buffer[i] = 0;
	run(&disk, READ, (struct command){ .namespace = 1, .dword10 = 3, .dword12 = 0 });
	for (size_t i = 0; i < 512; i++)
		must(buffer[i] == (uint8_t)(i < sizeof(words) - 1 ? words[i] : (char)(i >> 4)), "other bytes came back");
	say("ok nvme ", "512 bytes");
}

static void __attribute__((used)) guest(void)
{
	uint32_t command = config(4);

	must(config(8) >> 8 == 0x010802, "no NVMe controller in slot 4");
	set_config(4, (command & 0xffff & ~0x400u) | 6);
	registers = (volatile uint32_t *)(config(0x10) & ~15u);
	prepare_interrupts(config(0x3c));
	enable();
	identify("ok pin ");
	use_msix();
	identify("ok msix ");
	use_disk();
	end();
}

/* PVH (xen/include/public/elfnote.h XEN_ELFNOTE_PHYS32_ENTRY): QEMU starts it here, in 32 bits, without paging. */
__asm__(".pushsection .note.Xen, \"a\", @note\n"
	".align 4\n"
	".long 4, 4, 18\n"
	".asciz \"Xen\"\n"
	".long _start\n"
	".popsection\n"
	".pushsection .bss\n"
	".align 16\n"
	".skip 16384\n"
	"stack_end:\n"
	".popsection\n"
	".pushsection .text\n"
	".globl _start\n"
	"_start: mov $stack_end, %esp\n"
	"call guest\n"
	".popsection\n");
