/* The smallest program: a model, an agent, an answer. */
#include "example.h"

int main(void) {
  lomusai_engine *engine;
  lomusai_run *run;
  lomusai_error *error;
  char *result;
  check(lomusai_engine_open(NULL, &engine, &error), error);
  /* A model that answers from a script; {"type": "compatible", "base_url": …} asks a real one. */
  const char *model = "{\"type\": \"scripted\", \"script\": [{\"says\": \"Hello from Lomusai.\"}]}";
  check(lomusai_register_builtin_provider(engine, "model", TEXT(model), &error), error);
  check(lomusai_register_agent(engine, TEXT("{\"name\": \"greeter\", \"model\": \"model\"}"), &error), error);

  check(lomusai_run_start(engine, TEXT("{\"agent\": \"greeter\", \"input\": \"Say hello.\"}"), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "text");
  printf("\n");

  lomusai_string_free(result);
  lomusai_run_free(run);
  lomusai_engine_free(engine);
  return 0;
}
