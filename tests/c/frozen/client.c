/* A program of the first release, with the header of the first release. It must build and run with every library of the same ABI
   version. Neither this file nor the header beside it is ever changed. */
#include "lomusai-1.h"

#include <stdio.h>
#include <string.h>

#define TEXT(text) (text), strlen(text)

static int drops;
static void dropped(void *userdata) {
  (void)userdata;
  drops++;
}

static void add(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  lomusai_answer_resolve(answer, TEXT("3"), NULL);
  lomusai_answer_free(answer);
}

int main(void) {
  lomusai_engine_options options = {0};
  lomusai_run_options how = {0};
  lomusai_engine *engine = NULL;
  lomusai_run *run = NULL;
  lomusai_error *error = NULL;
  char *text = NULL;
  int events = 0;
  if (lomusai_abi_version() != LOMUSAI_ABI_VERSION) return 1;
  options.struct_size = sizeof options;
  options.config_json = "{\"threads\": 1}";
  if (lomusai_engine_open(&options, &engine, &error) != LOMUSAI_OK) return 2;
  if (lomusai_register_builtin_provider(engine, "m",
                                        TEXT("{\"type\":\"scripted\",\"script\":[{\"calls\":[{\"name\":\"add\"}]},{\"says\":\"three\"}]}"),
                                        &error) != LOMUSAI_OK)
    return 3;
  if (lomusai_register_tool(engine, TEXT("{\"name\":\"add\"}"), LOMUSAI_INLINE, add, NULL, dropped, &error) != LOMUSAI_OK) return 4;
  if (lomusai_register_agent(engine, TEXT("{\"name\":\"a\",\"model\":\"m\",\"tools\":[\"add\"]}"), &error) != LOMUSAI_OK) return 5;
  how.struct_size = sizeof how;
  if (lomusai_run_start(engine, TEXT("{\"agent\":\"a\",\"input\":\"x\"}"), &how, &run, &error) != LOMUSAI_OK) return 6;
  while (lomusai_run_next(run, LOMUSAI_FOREVER, &text, &error) == LOMUSAI_OK) {
    events++;
    lomusai_string_free(text);
  }
  if (lomusai_run_result(run, 1000, &text, &error) != LOMUSAI_OK || strstr(text, "\"text\":\"three\"") == NULL) return 7;
  lomusai_string_free(text);
  if (lomusai_run_start(engine, TEXT("{\"agent\":\"nobody\",\"input\":\"x\"}"), NULL, &run, &error) != LOMUSAI_E_NOT_FOUND) return 8;
  if (strcmp(lomusai_error_code(error), "agent_unknown") != 0) return 9;
  lomusai_error_free(error);
  if (lomusai_engine_close(engine, 5000, &error) != LOMUSAI_OK) return 10;
  lomusai_engine_free(engine);
  printf("frozen client: %d events with library %s\n", events, lomusai_version());
  return 0;
}
