/* The demo's third program: prints the journal of the run and its digest. */
#include <lomusai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(lomusai_status status, lomusai_error *err) {
  if (status == LOMUSAI_OK) return;
  fprintf(stderr, "%s [%s]\n", lomusai_error_message(err), lomusai_error_code(err));
  exit(1);
}

/* Prints the `seq` and `type` of each event: enough of a reader for a demo. */
static void print_events(const char *json) {
  const char *at = json;
  int seq = 0;
  while ((at = strstr(at, "\"at_ms\":")) != NULL) {
    const char *type = strstr(at, "\"type\":\"");
    const char *end = type ? strchr(type + 8, '"') : NULL;
    if (end == NULL) return;
    printf("c %2d %.*s\n", ++seq, (int)(end - type - 8), type + 8);
    at = end;
  }
}

int main(int argc, char **argv) {
  lomusai_engine_options options;
  lomusai_engine *engine = NULL;
  lomusai_error *err = NULL;
  char *text = NULL;

  if (argc != 3) {
    fprintf(stderr, "journal FILE RUN\n");
    return 2;
  }
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.path = argv[1];
  check(lomusai_engine_open(&options, &engine, &err), err);
  check(lomusai_engine_export_journal(engine, argv[2], &text, &err), err);
  print_events(text);
  lomusai_string_free(text);
  check(lomusai_engine_digest(engine, argv[2], &text, &err), err);
  printf("digest %s\n", text);
  lomusai_string_free(text);
  check(lomusai_engine_close(engine, LOMUSAI_FOREVER, &err), err);
  lomusai_engine_free(engine);
  return 0;
}
