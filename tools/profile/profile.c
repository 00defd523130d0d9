// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A plugin for QEMU that counts where the guest's instructions are spent, between marks that the guest's
 * program sets.
 *
 * A mark is a no-op of eight bytes with a number in it (see tools/guest/src/bench/count.rs): 1 begins a
 * span, 2 ends it, 3 writes the sum of the spans since the last 3 to the file: a line "section SPANS", then
 * lines "ADDRESS COUNT" of blocks of instructions.
 *
 * Debian's QEMU comes without the header of the interface; what is used of version 1 is declared here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;

enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

typedef void (*tb_trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*vcpu_udata_cb)(unsigned int vcpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, enum qemu_plugin_op op,
					      void *counter, uint64_t add);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, vcpu_udata_cb cb,
					    enum qemu_plugin_cb_flags flags, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);

EXPORT int qemu_plugin_version = 1;

/* nop dword ptr [rax + rax + mark] */
static const uint8_t mark_code[4] = { 0x0f, 0x1f, 0x84, 0x00 };
static const uint32_t mark_base = 0x6d61726b;

struct block {
	struct block *next;
	uint64_t address;
	uint64_t counter;	/* written to by translated code */
	uint64_t began;
	uint64_t sum;
};

#define BUCKETS 65536
static struct block *blocks[BUCKETS];
static unsigned int spans;
static FILE *out;

static struct block *block_at(uint64_t address)
{
	struct block **place = &blocks[(address ^ address >> 16) % BUCKETS];
	struct block *block;

	for (block = *place; block; block = block->next)
		if (block->address == address)
			return block;

	block = calloc(1, sizeof(*block));
	if (!block)
		abort();
	block->address = address;
	block->next = *place;
	*place = block;
	return block;
}

static void mark(unsigned int vcpu, void *data)
{
	uintptr_t number = (uintptr_t)data;
	struct block *block;
	size_t i;

	(void)vcpu;
	if (number == 2)
		spans++;
	if (number == 3)
		fprintf(out, "section %u\n", spans);
	for (i = 0; i < BUCKETS; i++) {
		for (block = blocks[i]; block; block = block->next) {
			if (number == 1) {
				block->began = block->counter;
			} else if (number == 2) {
				block->sum += block->counter - block->began;
			} else if (block->sum) {
				fprintf(out, "%llx %llu\n", (unsigned long long)block->address,
					(unsigned long long)block->sum);
				block->sum = 0;
			}
		}
	}
	if (number == 3) {
		fflush(out);
		spans = 0;
	}
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *block = block_at(qemu_plugin_tb_vaddr(tb));
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->counter, n);
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *code = qemu_plugin_insn_data(insn);
		uint32_t number;

		if (qemu_plugin_insn_size(insn) != 8 || memcmp(code, mark_code, sizeof(mark_code)))
			continue;
		memcpy(&number, code + 4, sizeof(number));
		number -= mark_base;
		if (number >= 1 && number <= 3)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, mark, QEMU_PLUGIN_CB_NO_REGS,
							       (void *)(uintptr_t)number);
	}
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w"))) {
		fprintf(stderr, "profile: out=FILE\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
