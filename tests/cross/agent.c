/* One agent whose tool waits for approval, in C. See tests/cross/README.md. Its functions have the names that functions without one
 * are given in Python and Node. */
#include <lomusai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char TOOL[] =
    "{\"name\": \"add\", \"description\": \"Adds two numbers.\", \"approval\": {\"function\": \"add.approval\"},"
    " \"input_schema\": {\"type\": \"object\","
    " \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"integer\"}}, \"required\": [\"a\", \"b\"],"
    " \"additionalProperties\": false}}";
static const char AGENT[] =
    "{\"name\": \"calculator\", \"model\": \"calculator.model\", \"tools\": [\"add\"],"
    " \"instructions\": {\"function\": \"calculator.instructions\"},"
    " \"stop\": [{\"type\": \"function\", \"function\": \"calculator.stop.0\"}],"
    " \"processors\": {\"input\": [\"calculator.input.0\"], \"output\": [\"calculator.output.0\"]},"
    " \"hooks\": {\"before_tool\": \"calculator.before_tool\"}}";
/* What is asked by name, and what it answers. */
static const char *const FUNCTIONS[][2] = {
    {"add.approval", "true"},          {"calculator.instructions", "\"Add.\""}, {"calculator.stop.0", "false"},
    {"calculator.input.0", "null"},    {"calculator.output.0", "null"},         {"calculator.before_tool", "null"},
};
static const char MODEL[] =
    "{\"type\": \"scripted\", \"script\": [{\"calls\": [{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]},"
    " {\"says\": \"1 + 2 is 3.\"}]}";
static const char REQUEST[] = "{\"agent\": \"calculator\", \"input\": \"What is 1 + 2?\"}";
static const char APPROVE[] = "{\"type\": \"approve\"}";

static void check(lomusai_status status, lomusai_error *err) {
  if (status == LOMUSAI_OK) return;
  fprintf(stderr, "%s [%s]\n", lomusai_error_message(err), lomusai_error_code(err));
  exit(1);
}

static void add(void *userdata, lomusai_str input, lomusai_answer *answer) {
  int a = 0, b = 0;
  char sum[32], text[128];
  (void)userdata;
  snprintf(text, sizeof text, "%.*s", (int)input.len, input.ptr);
  /* The engine has validated the arguments; their order is the model's. */
  if (sscanf(text, "{\"a\":%d,\"b\":%d}", &a, &b) != 2) {
    lomusai_answer_reject(answer, NULL, "unexpected arguments", strlen("unexpected arguments"), NULL);
  } else {
    snprintf(sum, sizeof sum, "%d", a + b);
    lomusai_answer_resolve(answer, sum, strlen(sum), NULL);
  }
  lomusai_answer_free(answer);
}

static void answer_with(void *userdata, lomusai_str input, lomusai_answer *answer) {
  const char *reply = userdata;
  (void)input;
  lomusai_answer_resolve(answer, reply, strlen(reply), NULL);
  lomusai_answer_free(answer);
}

int main(int argc, char **argv) {
  const char *mode = argc > 2 ? argv[1] : "";
  lomusai_engine_options options;
  lomusai_engine *engine = NULL;
  lomusai_run *run = NULL;
  lomusai_error *err = NULL;
  char *json = NULL, run_id[160];

  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.path = argc > 2 ? argv[2] : NULL;
  check(lomusai_engine_open(&options, &engine, &err), err);
  check(lomusai_register_tool(engine, TOOL, strlen(TOOL), LOMUSAI_POOL, add, NULL, NULL, &err), err);
  check(lomusai_register_builtin_provider(engine, "calculator.model", MODEL, strlen(MODEL), &err), err);
  for (size_t i = 0; i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
    check(lomusai_register_function(engine, FUNCTIONS[i][0], LOMUSAI_POOL, answer_with, (void *)FUNCTIONS[i][1], NULL, &err), err);
  if (strcmp(mode, "resume") == 0 && argc > 3) {
    snprintf(run_id, sizeof run_id, "%s", argv[3]);
  } else {
    check(lomusai_register_agent(engine, AGENT, strlen(AGENT), &err), err);
    check(lomusai_run_start(engine, REQUEST, strlen(REQUEST), NULL, &run, &err), err);
    lomusai_run_discard_events(run);
    check(lomusai_run_result(run, LOMUSAI_FOREVER, NULL, &err), err);
    snprintf(run_id, sizeof run_id, "%s", lomusai_run_id(run));
    lomusai_run_free(run);
    printf("run %s\n", run_id);
    fflush(stdout);
    /* Killed here. */
    if (strcmp(mode, "start") == 0) sleep(600);
  }
  check(lomusai_run_resume(engine, run_id, APPROVE, strlen(APPROVE), NULL, &run, &err), err);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &json, &err), err);
  printf("text %s\n", strstr(json, "1 + 2 is 3.") ? "1 + 2 is 3." : json);
  lomusai_string_free(json);
  lomusai_run_free(run);
  check(lomusai_engine_digest(engine, run_id, &json, &err), err);
  printf("digest %s\n", json);
  lomusai_string_free(json);
  check(lomusai_engine_close(engine, LOMUSAI_FOREVER, &err), err);
  lomusai_engine_free(engine);
  return 0;
}
