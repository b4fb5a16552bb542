/*
 * The nearest relative: umockdev answers ioctls of an unmodified (dynamic) program with a handler in another process.
 * This one answers IOMMU_IOAS_ALLOC and IOMMU_DESTROY on a /dev/iommu of its testbed.
 *
 * usage: umockdev-wrapper umockdev-handler PROGRAM ARGS...   needs libumockdev-dev
 */
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <umockdev.h>

#define IOAS_ALLOC 0x3b81
#define DESTROY 0x3b80
#define STRUCT_BYTES 12

typedef struct {
	UMockdevIoctlBase parent;
} Handler;
typedef struct {
	UMockdevIoctlBaseClass parent;
} HandlerClass;

GType handler_get_type(void);
G_DEFINE_TYPE(Handler, handler, UMOCKDEV_TYPE_IOCTL_BASE)

static gboolean handle(UMockdevIoctlBase *base, UMockdevIoctlClient *client)
{
	gulong request = umockdev_ioctl_client_get_request(client);
	UMockdevIoctlData *arg = umockdev_ioctl_client_get_arg(client), *data;
	static uint32_t next_id = 1;

	(void)base;
	if (request != IOAS_ALLOC && request != DESTROY)
		return FALSE;
	data = umockdev_ioctl_data_resolve(arg, 0, request == DESTROY ? 8 : STRUCT_BYTES, NULL);
	if (data && request == IOAS_ALLOC) {
		umockdev_ioctl_data_update(data, 8, (guint8 *)&next_id, sizeof(next_id));
		next_id++;
	}
	umockdev_ioctl_client_complete(client, data ? 0 : -1, data ? 0 : 14);
	g_clear_object(&data);
	return TRUE;
}

static void handler_class_init(HandlerClass *class)
{
	UMOCKDEV_IOCTL_BASE_CLASS(class)->handle_ioctl = handle;
}

static void handler_init(Handler *handler)
{
	(void)handler;
}

static void ended(GPid pid, gint status, gpointer loop)
{
	(void)pid;
	(void)status;
	g_main_loop_quit(loop);
}

int main(int argc, char **argv)
{
	GMainLoop *loop = g_main_loop_new(NULL, FALSE);
	UMockdevTestbed *testbed = umockdev_testbed_new();
	Handler *handler = g_object_new(handler_get_type(), NULL);
	GError *error = NULL;
	GPid pid;

	if (argc < 2)
		return 64;
	umockdev_testbed_add_from_string(testbed,
					 "P: /devices/iommu\nN: iommu\nE: DEVNAME=/dev/iommu\nE: SUBSYSTEM=misc\n", &error);
	if (!error)
		umockdev_testbed_attach_ioctl(testbed, "/dev/iommu", UMOCKDEV_IOCTL_BASE(handler), &error);
	if (!error)
		g_spawn_async(NULL, argv + 1, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid, &error);
	if (error) {
		g_printerr("umockdev-handler: %s\n", error->message);
		return 1;
	}
	g_child_watch_add(pid, ended, loop);
	g_main_loop_run(loop);
	g_object_unref(handler);
	g_object_unref(testbed);
	return 0;
}
