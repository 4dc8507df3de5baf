/* Reading a run while it happens. */
#include "example.h"

int main(void) {
  lomusai_engine *engine;
  lomusai_run *run;
  lomusai_error *error;
  lomusai_status status;
  char *event;
  check(lomusai_engine_open(NULL, &engine, &error), error);
  const char *model = "{\"type\": \"scripted\", \"script\": [{\"says\": \"Once upon a time there was a crab.\"}]}";
  check(lomusai_register_builtin_provider(engine, "model", TEXT(model), &error), error);
  check(lomusai_register_agent(engine, TEXT("{\"name\": \"teller\", \"model\": \"model\"}"), &error), error);

  check(lomusai_run_start(engine, TEXT("{\"agent\": \"teller\", \"input\": \"Tell me a story.\"}"), NULL, &run, &error), error);
  while ((status = lomusai_run_next(run, LOMUSAI_FOREVER, &event, &error)) == LOMUSAI_OK) {
    if (strstr(event, "\"type\":\"part_delta\"") != NULL) {
      print_field(event, "text");
      fflush(stdout);
    } else if (strstr(event, "\"type\":\"run_finished\"") != NULL) {
      printf("\n");
      print_field(event, "outcome");
      printf("\n");
    }
    lomusai_string_free(event);
  }
  if (status != LOMUSAI_END) check(status, error);

  lomusai_run_free(run);
  lomusai_engine_free(engine);
  return 0;
}
