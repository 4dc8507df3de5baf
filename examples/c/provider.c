/* A model of one's own: anything that can answer in chunks. */
#include "example.h"

/* Says back what it is told, word by word. Pushing waits while the run is slower than we are. */
static void echo(void *userdata, lomusai_str request, lomusai_answer *answer) {
  (void)userdata;
  /* The last text in the request; a real provider reads it with a JSON library. */
  const char *words = NULL;
  for (size_t i = 0; i + 8 < request.len; i++)
    if (memcmp(request.ptr + i, "\"text\":\"", 8) == 0) words = request.ptr + i + 8;
  while (words != NULL && *words != '"') {
    char chunk[256];
    size_t len = strcspn(words, " \"");
    if (words[len] == ' ') len++;
    int size = snprintf(chunk, sizeof chunk, "\"%.*s\"", (int)len, words);
    if (lomusai_answer_push(answer, chunk, (size_t)size, NULL) != LOMUSAI_OK) break; /* nobody reads on */
    words += len;
  }
  lomusai_answer_finish(answer, NULL);
  lomusai_answer_free(answer);
}

int main(void) {
  lomusai_engine *engine;
  lomusai_run *run;
  lomusai_error *error;
  char *result;
  check(lomusai_engine_open(NULL, &engine, &error), error);
  check(lomusai_register_provider(engine, "echo", LOMUSAI_POOL, echo, NULL, NULL, &error), error);
  check(lomusai_register_agent(engine, TEXT("{\"name\": \"parrot\", \"model\": \"echo\"}"), &error), error);

  check(lomusai_run_start(engine, TEXT("{\"agent\": \"parrot\", \"input\": \"Polly wants a cracker.\"}"), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "text");
  printf("\n");

  lomusai_string_free(result);
  lomusai_run_free(run);
  lomusai_engine_free(engine);
  return 0;
}
