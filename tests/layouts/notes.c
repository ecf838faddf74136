// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Writes down every BPF object that a process makes, and what it was made of: LD_PRELOAD for `examples/record_layout.rs`.
 *
 * The kernel does not give back the instructions that a program was loaded with, so they are taken on their way in. One JSON
 * object a line goes to the file in BPF_NOTES. Objects are named by kind and kernel id (`m12` is map 12); in instructions the
 * id of a map stands where its descriptor was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long (*real)(long, ...);
/* By descriptor: the tracepoints of perf events, and the functions that programs were loaded to replace. */
static unsigned long long tracepoints[4096];
static struct {
	unsigned program, function;
} replaced[4096];

static __thread FILE *note;

static unsigned id_of(int fd, size_t at)
{
	char info[512] = {};
	union bpf_attr attr = { .info = { .bpf_fd = fd, .info_len = sizeof(info), .info = (unsigned long)info } };
	unsigned id = 0;

	if (real(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0)
		memcpy(&id, info + at, sizeof(id));
	return id;
}

static unsigned prog(int fd) { return id_of(fd, offsetof(struct bpf_prog_info, id)); }
static unsigned map(int fd) { return id_of(fd, offsetof(struct bpf_map_info, id)); }
static unsigned bpf_link(int fd) { return id_of(fd, offsetof(struct bpf_link_info, id)); }
static unsigned btf(int fd) { return id_of(fd, offsetof(struct bpf_btf_info, id)); }

static void bytes(const char *name, const void *from, size_t length)
{
	fprintf(note, ",\"%s\":\"", name);
	for (size_t i = 0; i < length; i++)
		fprintf(note, "%02x", ((const unsigned char *)from)[i]);
	fputc('"', note);
}

static void sizes_of(int fd, unsigned *key, unsigned *value)
{
	struct bpf_map_info info = {};
	union bpf_attr attr = { .info = { .bpf_fd = fd, .info_len = sizeof(info), .info = (unsigned long)&info } };

	real(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr));
	*key = info.key_size;
	*value = info.value_size;
}

static void instructions(const union bpf_attr *attr)
{
	size_t length = attr->insn_cnt * sizeof(struct bpf_insn);
	struct bpf_insn *insns = malloc(length);

	memcpy(insns, (void *)attr->insns, length);
	for (unsigned i = 0; i < attr->insn_cnt; i++)
		if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (insns[i].src_reg == BPF_PSEUDO_MAP_FD || insns[i].src_reg == BPF_PSEUDO_MAP_VALUE)
				insns[i].imm = map(insns[i].imm);
			i++;
		}
	bytes("insns", insns, length);
	free(insns);
}

static void program(const union bpf_attr *attr, int fd)
{
	fprintf(note, "{\"what\":\"program\",\"id\":\"p%u\",\"kind\":%u,\"attach_type\":%u,\"flags\":%u,\"name\":\"%s\",\"license\":\"%s\"",
		prog(fd), attr->prog_type, attr->expected_attach_type, attr->prog_flags, attr->prog_name,
		(const char *)attr->license);
	if (attr->prog_btf_fd) {
		fprintf(note, ",\"types\":{\"id\":\"t%u\",\"func_info_size\":%u,\"line_info_size\":%u",
			btf(attr->prog_btf_fd), attr->func_info_rec_size, attr->line_info_rec_size);
		bytes("func_info", (void *)attr->func_info, attr->func_info_cnt * attr->func_info_rec_size);
		bytes("line_info", (void *)attr->line_info, attr->line_info_cnt * attr->line_info_rec_size);
		fputc('}', note);
	}
	if (attr->attach_prog_fd) {
		replaced[fd % 4096].program = prog(attr->attach_prog_fd);
		replaced[fd % 4096].function = attr->attach_btf_id;
		fprintf(note, ",\"target\":{\"program\":\"p%u\",\"function\":%u}", replaced[fd % 4096].program, attr->attach_btf_id);
	}
	instructions(attr);
	fputs("}\n", note);
}

static void new_map(const union bpf_attr *attr, int fd)
{
	fprintf(note, "{\"what\":\"map\",\"id\":\"m%u\",\"kind\":%u,\"key_size\":%u,\"value_size\":%u,\"max_entries\":%u,\"flags\":%u,\"name\":\"%s\"",
		map(fd), attr->map_type, attr->key_size, attr->value_size, attr->max_entries, attr->map_flags, attr->map_name);
	if (attr->btf_fd)
		fprintf(note, ",\"types\":{\"id\":\"t%u\",\"key\":%u,\"value\":%u}", btf(attr->btf_fd), attr->btf_key_type_id,
			attr->btf_value_type_id);
	fputs("}\n", note);
}

static void value(const union bpf_attr *attr)
{
	unsigned key_size, value_size;

	sizes_of(attr->map_fd, &key_size, &value_size);
	fprintf(note, "{\"what\":\"value\",\"map\":\"m%u\"", map(attr->map_fd));
	bytes("key", (void *)attr->key, key_size);
	bytes("value", (void *)attr->value, value_size);
	fputs("}\n", note);
}

#define REPLACES "{\"function\":{\"function\":%llu,\"program\":\"p%u\"}}"

static void new_link(int fd, int from, const char *to, unsigned program, unsigned long long number)
{
	fprintf(note, "{\"what\":\"link\",\"id\":\"l%u\",\"program\":\"p%u\",\"to\":", bpf_link(fd), prog(from));
	fprintf(note, to, number, program);
	fputs("}\n", note);
}

static void linked(const union bpf_attr *attr, int fd)
{
	int from = attr->link_create.prog_fd;

	if (attr->link_create.attach_type == BPF_PERF_EVENT)
		new_link(fd, from, "{\"tracepoint\":%llu}", 0, tracepoints[attr->link_create.target_fd % 4096]);
	else
		new_link(fd, from, REPLACES, prog(attr->link_create.target_fd), attr->link_create.target_btf_id);
}

/* Without a name a program goes where it was loaded for. */
static void opened(const union bpf_attr *attr, int fd)
{
	int from = attr->raw_tracepoint.prog_fd;

	if (!attr->raw_tracepoint.name)
		new_link(fd, from, REPLACES, replaced[from % 4096].program, replaced[from % 4096].function);
}

static void made(int command, const union bpf_attr *attr, size_t size, int fd)
{
	/* Callers give as much of the union as they use. */
	union bpf_attr whole = {};
	char *text = NULL;
	size_t length = 0;
	int file;

	memcpy(&whole, attr, size < sizeof(whole) ? size : sizeof(whole));
	note = open_memstream(&text, &length);
	switch (command) {
	case BPF_PROG_LOAD: program(&whole, fd); break;
	case BPF_MAP_CREATE: new_map(&whole, fd); break;
	case BPF_MAP_UPDATE_ELEM: value(&whole); break;
	case BPF_MAP_FREEZE: fprintf(note, "{\"what\":\"freeze\",\"map\":\"m%u\"}\n", map(whole.map_fd)); break;
	case BPF_LINK_CREATE: linked(&whole, fd); break;
	case BPF_RAW_TRACEPOINT_OPEN: opened(&whole, fd); break;
	case BPF_BTF_LOAD:
		fprintf(note, "{\"what\":\"types\",\"id\":\"t%u\"", btf(fd));
		bytes("bytes", (void *)whole.btf, whole.btf_size);
		fputs("}\n", note);
		break;
	}
	fclose(note);
	file = length ? open(getenv("BPF_NOTES"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (file >= 0) {
		if (write(file, text, length) < 0)
			perror("notes");
		close(file);
	}
	free(text);
}

long syscall(long number, ...)
{
	static __thread int busy;
	long a[6], result;
	va_list rest;

	if (!real)
		real = dlsym(RTLD_NEXT, "syscall");
	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(rest, long);
	va_end(rest);
	result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (result >= 0 && getenv("BPF_NOTES") && !busy) {
		int error = errno;

		busy = 1;
		if (number == SYS_bpf)
			made(a[0], (void *)a[1], a[2], result);
		else if (number == SYS_perf_event_open)
			tracepoints[result % 4096] = ((struct perf_event_attr *)a[0])->config;
		busy = 0;
		errno = error;
	}
	return result;
}
