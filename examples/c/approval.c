/* A tool that waits for a person, in a store that outlives the process. */
#include "example.h"

static const char SPEC[] = "{\"name\": \"refund\", \"description\": \"Pays an order back.\", \"approval\": \"always\"}";

static void refund(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  printf("paying back %.*s\n", (int)input.len, input.ptr);
  lomusai_answer_resolve(answer, TEXT("\"paid back\""), NULL);
  lomusai_answer_free(answer);
}

int main(void) {
  const char *file = "lomusai-approval.db";
  lomusai_engine_options options = {0};
  lomusai_engine *engine;
  lomusai_run *run, *resumed;
  lomusai_error *error;
  char *result;
  remove(file);
  options.struct_size = sizeof options;
  options.path = file;
  check(lomusai_engine_open(&options, &engine, &error), error);
  const char *model = "{\"type\": \"scripted\", \"script\": [{\"calls\": [{\"name\": \"refund\", \"arguments\": {\"order\": \"A-17\"}}]},"
                      " {\"says\": \"It is refunded.\"}]}";
  check(lomusai_register_builtin_provider(engine, "model", TEXT(model), &error), error);
  check(lomusai_register_tool(engine, TEXT(SPEC), LOMUSAI_POOL, refund, NULL, NULL, &error), error);
  check(lomusai_register_agent(engine, TEXT("{\"name\": \"clerk\", \"model\": \"model\", \"tools\": [\"refund\"]}"), &error), error);
  check(lomusai_engine_start(engine, NULL, &error), error);

  check(lomusai_run_start(engine, TEXT("{\"agent\": \"clerk\", \"input\": \"Refund A-17, please.\"}"), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "status");
  printf(": ");
  print_field(result, "tool");
  printf(" waits\n");
  lomusai_string_free(result);

  /* Here the program could end. Any other that registers `refund` and `model` can go on. */
  check(lomusai_run_resume(engine, lomusai_run_id(run), TEXT("{\"type\": \"approve\"}"), NULL, &resumed, &error), error);
  lomusai_run_discard_events(resumed);
  check(lomusai_run_result(resumed, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "text");
  printf("\n");

  lomusai_string_free(result);
  lomusai_run_free(resumed);
  lomusai_run_free(run);
  check(lomusai_engine_close(engine, 5000, &error), error);
  lomusai_engine_free(engine);
  remove(file);
  return 0;
}
