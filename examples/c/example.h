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

/* The text after the last `"key":"` in JSON, up to the next quote: enough for examples. A program uses a JSON library. */
static inline void print_field(const char *json, const char *key) {
  char quoted[64];
  const char *found = NULL;
  int len = snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
  for (const char *at = json; (at = strstr(at, quoted)) != NULL;) found = at += len;
  if (found != NULL) printf("%.*s", (int)strcspn(found, "\""), found);
}

#endif
