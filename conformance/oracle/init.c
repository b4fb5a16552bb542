// The first program of a kernel that scripts are played on: plays each of /scripts, a process a script, into a file of
// the host. Behind a script come the kernel's warnings and how the runner ended, where that was not well, in lines
// that begin with "!!".
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS_MAX 30

static int out, kmsg;

static void must(int ok, const char *what) {
  if (ok) return;
  printf("init: %s: %s\n", what, strerror(errno));
  fflush(stdout);
  reboot(RB_POWER_OFF);
}

static void write_to(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) perror(path);
  close(fd);
}

static void warnings(void) {
  static char record[8192];
  for (;;) {
    ssize_t n = read(kmsg, record, sizeof record - 1);
    if (n < 0 && errno == EPIPE) continue;
    if (n <= 0) return;
    record[n] = 0;
    char *text = strchr(record, ';');
    if (!text || !(strstr(text, "WARNING:") || strstr(text, "BUG:") || strstr(text, "Oops"))) continue;
    text[strcspn(text, "\n")] = 0;
    dprintf(out, "!! %s\n", text + 1);
    // Those that warn once, warn again.
    write_to("/sys/kernel/debug/clear_warn_once", "1");
  }
}

static void play(const char *script) {
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    alarm(SECONDS_MAX);
    dup2(out, 1);
    execl("/runner", "/runner", script, NULL);
    _exit(127);
  }
  int status;
  waitpid(pid, &status, 0);
  if (WIFSIGNALED(status)) dprintf(out, "!! killed by signal %d\n", WTERMSIG(status));
  else if (WEXITSTATUS(status)) dprintf(out, "!! ended with status %d\n", WEXITSTATUS(status));
  warnings();
}

int main(void) {
  mkdir("/dev", 0755); mkdir("/proc", 0755); mkdir("/sys", 0755); mkdir("/host", 0755);
  must(!mount("dev", "/dev", "devtmpfs", 0, NULL), "devtmpfs");
  must(!mount("proc", "/proc", "proc", 0, NULL), "proc");
  must(!mount("sys", "/sys", "sysfs", 0, NULL), "sysfs");
  must(!mount("debug", "/sys/kernel/debug", "debugfs", 0, NULL), "debugfs");
  must(!mount("host", "/host", "9p", 0, "trans=virtio,version=9p2000.L,msize=262144"), "9p");
  out = open("/host/out", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  must(out >= 0, "out");
  kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  must(kmsg >= 0, "/dev/kmsg");
  lseek(kmsg, 0, SEEK_END);
  struct dirent **names;
  int n = scandir("/scripts", &names, NULL, alphasort);
  must(n >= 0 && !chdir("/scripts"), "/scripts");
  for (int i = 0; i < n; i++)
    if (names[i]->d_name[0] != '.') play(names[i]->d_name);
  close(out);
  printf("init: done\n");
  fflush(stdout);
  sync();
  reboot(RB_POWER_OFF);
}
