/*
 * libnbd asks every server for structured replies, and fio has no option against it. Preloaded, this
 * makes it not ask: `cc -shared -fPIC -o simple_replies.so simple_replies.c`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>

struct nbd_handle;

struct nbd_handle *nbd_create(void) {
  struct nbd_handle *(*create)(void) = dlsym(RTLD_NEXT, "nbd_create");
  int (*request_structured_replies)(struct nbd_handle *, bool) =
      dlsym(RTLD_NEXT, "nbd_set_request_structured_replies");
  struct nbd_handle *handle = create();
  if (handle != 0) request_structured_replies(handle, false);
  return handle;
}
