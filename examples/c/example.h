/* What the examples share: ending with the reason when something fails. */
#ifndef LOMUSAI_EXAMPLE_H
#define LOMUSAI_EXAMPLE_H

#include <lomusai.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text as pointer and length. */
#define TEXT(text) (text), strlen(text)

static inline void check(lomusai_status status, lomusai_error *error) {
  if (status == LOMUSAI_OK) return;
  fprintf(stderr, "%s [%s]\n", lomusai_error_message(error), lomusai_error_code(error));
  exit(1);
}

/* The text after `"key":"` in JSON, up to the next quote: enough for examples. Use a JSON library. */
static inline void print_field(const char *json, const char *key) {
  char quoted[64];
  int len = snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
  const char *at = strstr(json, quoted);
  if (at != NULL) printf("%.*s", (int)strcspn(at + len, "\""), at + len);
}

#endif
