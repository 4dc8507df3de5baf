/* A workflow that asks a person about large refunds. It is kept in a file: this process may end, and another one, in any language, goes on. */
#include "example.h"

static const char SPEC[] =
    "{\"name\": \"refund\", \"steps\": ["
    " {\"id\": \"check\", \"run\": {\"step\": \"check\"}},"
    " {\"id\": \"boss\", \"after\": [\"check\"], \"when\": {\"expr\": \"steps.check.amount > 100\"}, \"run\": {\"step\": \"boss\"},"
    "  \"resume_schema\": {\"type\": \"boolean\"}},"
    " {\"id\": \"pay\", \"after\": [\"boss\"], \"needs\": \"none\", \"input\": {\"from\": \"steps.check\"}, \"run\": {\"step\": \"pay\"},"
    "  \"retry\": {\"max\": 3}},"
    " {\"id\": \"tell\", \"after\": [\"pay\"], \"input\": {\"from\": \"input.people\"}, \"run\": {\"foreach\": {\"concurrency\": 2,"
    "  \"steps\": [{\"id\": \"tell_item\", \"run\": {\"step\": \"tell\"}}]}}}"
    "]}";

static void check_order(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata, (void)input;
  lomusai_answer_resolve(answer, TEXT("{\"order\": \"A-17\", \"amount\": 120}"), NULL);
  lomusai_answer_free(answer);
}

/* Waits for the boss, maybe for days: called again, it finds what resumed it. */
static void ask_boss(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char *facts = NULL;
  (void)userdata, (void)input;
  lomusai_answer_facts(answer, &facts, NULL);
  if (strstr(facts, "\"resume\":true"))
    lomusai_answer_resolve(answer, TEXT("true"), NULL);
  else if (strstr(facts, "\"resume\":false"))
    lomusai_answer_reply(answer, TEXT("{\"bail\": \"the boss said no\"}"), NULL);
  else
    lomusai_answer_reply(answer, TEXT("{\"suspend\": {\"may\": \"we pay back\"}, \"label\": \"boss\"}"), NULL);
  lomusai_string_free(facts);
  lomusai_answer_free(answer);
}

/* The key is the same however often this is called for one run: give it to who takes the money. */
static void pay_back(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char *facts = NULL;
  (void)userdata, (void)input;
  lomusai_answer_facts(answer, &facts, NULL);
  printf("paying back under the key ");
  print_field(facts, "idempotency_key");
  printf("\n");
  lomusai_string_free(facts);
  lomusai_answer_resolve(answer, TEXT("\"120 paid back for A-17\""), NULL);
  lomusai_answer_free(answer);
}

static void tell(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char told[128];
  (void)userdata;
  snprintf(told, sizeof told, "\"told %.*s", (int)input.len - 1, input.ptr + 1);
  lomusai_answer_resolve(answer, TEXT(told), NULL);
  lomusai_answer_free(answer);
}

static lomusai_engine *open_engine(const char *file) {
  lomusai_engine_options options = {0};
  lomusai_engine *engine;
  lomusai_error *error;
  options.struct_size = sizeof options;
  options.path = file;
  check(lomusai_engine_open(&options, &engine, &error), error);
  check(lomusai_register_step(engine, "check", LOMUSAI_POOL, check_order, NULL, NULL, &error), error);
  check(lomusai_register_step(engine, "boss", LOMUSAI_POOL, ask_boss, NULL, NULL, &error), error);
  check(lomusai_register_step(engine, "pay", LOMUSAI_POOL, pay_back, NULL, NULL, &error), error);
  check(lomusai_register_step(engine, "tell", LOMUSAI_POOL, tell, NULL, NULL, &error), error);
  check(lomusai_register_workflow(engine, TEXT(SPEC), &error), error);
  return engine;
}

static void close_engine(lomusai_engine *engine) {
  lomusai_error *error;
  check(lomusai_engine_close(engine, 5000, &error), error);
  lomusai_engine_free(engine);
}

int main(void) {
  const char *file = "lomusai-workflow.db";
  const char *request = "{\"workflow\": \"refund\", \"run_id\": \"refund-1\", \"input\": {\"people\": [\"Ada\", \"Bob\"]}}";
  lomusai_run *run;
  lomusai_error *error;
  char *result;
  remove(file);

  lomusai_engine *engine = open_engine(file);
  check(lomusai_run_start(engine, TEXT(request), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "status");
  printf(" for ");
  print_field(result, "label");
  printf("\n");
  lomusai_string_free(result);
  lomusai_run_free(run);
  close_engine(engine);

  /* As another process would: open the file, register the same steps, and answer. */
  engine = open_engine(file);
  check(lomusai_run_resume(engine, "refund-1", TEXT("{\"type\": \"resume\", \"label\": \"boss\", \"data\": true}"), NULL, &run, &error), error);
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &result, &error), error);
  print_field(result, "status");
  printf(": %s\n", strstr(result, "[\"told Ada\",\"told Bob\"]") ? "told Ada and Bob" : result);
  lomusai_string_free(result);
  lomusai_run_free(run);
  close_engine(engine);
  remove(file);
  return 0;
}
