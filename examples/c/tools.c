/* A tool from a C function. */
#include "example.h"

static const char SPEC[] =
    "{\"name\": \"add\", \"description\": \"Adds two numbers.\", \"input_schema\": {\"type\": \"object\", \"properties\":"
    " {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"integer\"}}, \"required\": [\"a\", \"b\"]}}";

/* The arguments fit the schema. The answer is ours to free; it could also be given later, from another thread. */
static void add(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char text[64];
  int a = 0, b = 0;
  (void)userdata;
  snprintf(text, sizeof text, "%.*s", (int)input.len, input.ptr);
  sscanf(text, "{\"a\":%d,\"b\":%d}", &a, &b);
  printf("adding %d and %d\n", a, b);
  int len = snprintf(text, sizeof text, "%d", a + b);
  lomusai_answer_resolve(answer, text, (size_t)len, NULL);
  lomusai_answer_free(answer);
}

int main(void) {
  lomusai_engine *engine;
  lomusai_run *run;
  lomusai_error *error;
  char *result, *digest;
  check(lomusai_engine_open(NULL, &engine, &error), error);
  const char *model = "{\"type\": \"scripted\", \"script\": [{\"calls\": [{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]},"
                      " {\"says\": \"1 + 2 is 3.\"}]}";
  check(lomusai_register_builtin_provider(engine, "model", TEXT(model), &error), error);
  check(lomusai_register_tool(engine, TEXT(SPEC), LOMUSAI_POOL, add, NULL, NULL, &error), error);
  check(lomusai_register_agent(engine, TEXT("{\"name\": \"calculator\", \"model\": \"model\", \"tools\": [\"add\"]}"), &error), error);

  check(lomusai_run_start(engine, TEXT("{\"agent\": \"calculator\", \"input\": \"What is 1 + 2?\"}"), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "text");
  check(lomusai_engine_digest(engine, lomusai_run_id(run), &digest, &error), error);
  printf("\ndigest %s\n", digest);

  lomusai_string_free(digest);
  lomusai_string_free(result);
  lomusai_run_free(run);
  lomusai_engine_free(engine);
  return 0;
}
